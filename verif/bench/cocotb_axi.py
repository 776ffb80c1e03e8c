# SPDX-License-Identifier: Apache-2.0
"""Bus models for cocotb: an AXI4-Lite master and an AXI4 memory, both with random pauses.

All signals are sampled before the rising edge of ``aclk``, at the falling one, and driven after it:
what a simulator shows at the edge itself may be of before or after it.
"""

import random
import re
from collections import deque
from dataclasses import dataclass

from cocotb.triggers import FallingEdge, RisingEdge

OKAY, SLVERR, DECERR = 0, 2, 3
PAGE = 4096


class RegisterMaster:
    """AXI4-Lite master on the ports ``s_axi_*``.

    ``pause`` is the probability, for each cycle and channel, that it does not raise its VALID or
    READY yet.
    """

    def __init__(self, dut, rng: random.Random, pause: float = 0.0):
        self._dut = dut
        self._rng = rng
        self.pause = pause
        for name in ("awvalid", "wvalid", "arvalid", "bready", "rready", "awprot", "arprot"):
            getattr(dut, f"s_axi_{name}").value = 0

    async def read(self, offset: int) -> int:
        """Return the register at a byte offset; the response must be OKAY."""
        dut = self._dut
        await self._idle()
        dut.s_axi_araddr.value = offset
        dut.s_axi_arvalid.value = 1
        await self._until(dut.s_axi_arready)
        dut.s_axi_arvalid.value = 0
        await self._idle()
        dut.s_axi_rready.value = 1
        value, response = await self._until(dut.s_axi_rvalid, dut.s_axi_rdata, dut.s_axi_rresp)
        dut.s_axi_rready.value = 0
        assert response == OKAY, f"register read at {offset:#x} answered {response}"
        return value

    async def write(self, offset: int, value: int, strobe: int = 0xF) -> None:
        """Write the register; address and data come in random order, the response must be OKAY."""
        dut = self._dut
        lead = 0 if self.pause == 0 else self._rng.randint(-3, 3)
        pending = {"aw": max(lead, 0), "w": max(-lead, 0)}
        dut.s_axi_awaddr.value = offset
        dut.s_axi_wdata.value = value
        dut.s_axi_wstrb.value = strobe
        while pending:
            for channel, delay in pending.items():
                getattr(dut, f"s_axi_{channel}valid").value = int(delay <= 0)
            await FallingEdge(dut.aclk)
            ready = {
                channel: bool(getattr(dut, f"s_axi_{channel}ready").value) for channel in pending
            }
            await RisingEdge(dut.aclk)
            for channel in list(pending):
                if pending[channel] <= 0 and ready[channel]:
                    del pending[channel]
                    getattr(dut, f"s_axi_{channel}valid").value = 0
                else:
                    pending[channel] -= 1
        await self._idle()
        dut.s_axi_bready.value = 1
        [response] = await self._until(dut.s_axi_bvalid, dut.s_axi_bresp)
        dut.s_axi_bready.value = 0
        assert response == OKAY, f"register write at {offset:#x} answered {response}"

    async def _idle(self) -> None:
        while self._rng.random() < self.pause:
            await RisingEdge(self._dut.aclk)

    async def _until(self, signal, *others) -> list[int]:
        """Wait for a rising edge with ``signal`` high; return what the others are there."""
        for _ in range(1000):
            await FallingEdge(self._dut.aclk)
            high = bool(signal.value)
            values = [int(other.value) for other in others] if high else []
            await RisingEdge(self._dut.aclk)
            if high:
                return values
        raise AssertionError(f"{signal._name} did not rise within 1000 cycles")


def _defined(value) -> int:
    """A number, with bits that a simulator of four states does not know as ones.

    What was never written to the activation memory, as channels that do not exist, is not known.
    """
    return int(value) if value.is_resolvable else int(re.sub("[^01]", "1", str(value)), 2)


#: Channels of the memory's master and the signals of their payloads.
_OFFERS = {
    "ar": ("addr", "len", "size", "burst", "id"),
    "aw": ("addr", "len", "size", "burst", "id"),
    "w": ("data", "strb", "last"),
}


@dataclass
class _Burst:
    address: int
    beats: int
    identifier: int
    ready: int
    response: int = OKAY


@dataclass(frozen=True)
class Fault:
    """Bytes ``begin..end-1`` answer ``response``; ``write`` tells which direction."""

    begin: int
    end: int
    response: int
    write: bool


class Memory:
    """AXI4 memory on the ports ``m_axi_*`` that checks the master's side of the protocol.

    ``data`` (a bytearray) begins at address ``base``; elsewhere the answer is DECERR. ``pause`` is
    the probability, for each cycle and channel, of not being ready or valid. ``hold`` freezes the
    read data channel as long as it is True. Start :meth:`run` as a task.
    """

    def __init__(self, dut, rng: random.Random, *, base: int, size: int):
        self._dut = dut
        self._rng = rng
        self.base = base
        self.data = bytearray(size)
        self.latency = 3
        self.pause = 0.0
        self.hold = False
        self.faults: list[Fault] = []
        self.cycle = 0
        self.last_activity = 0
        self._bytes = len(dut.m_axi_wstrb)
        self.clear()

    def clear(self) -> None:
        """Forget everything under way, as a reset does."""
        self._reads: deque[_Burst] = deque()
        self._writes: deque[_Burst] = deque()
        self._responses: deque[_Burst] = deque()
        self._waiting: dict[str, tuple] = {}
        for name in ("arready", "awready", "wready", "rvalid", "bvalid"):
            getattr(self._dut, f"m_axi_{name}").value = 0
        self._driven = dict.fromkeys(("ar", "aw", "w", "r", "b"), False)

    @property
    def quiet(self) -> bool:
        """No transaction is unfinished."""
        return not (self._reads or self._writes or self._responses)

    def __repr__(self) -> str:
        return f"reads {self._reads}, writes {self._writes}, responses {self._responses}"

    async def run(self) -> None:
        """Serve for ever."""
        dut = self._dut
        while True:
            await FallingEdge(dut.aclk)
            reset = not dut.aresetn.value
            self._offers = {} if reset else {name: self._offer(name) for name in _OFFERS}
            await RisingEdge(dut.aclk)
            self.cycle += 1
            if reset:
                self.clear()
                continue
            self._take_addresses()
            self._take_data()
            self._finish("r", self._reads, dut.m_axi_rvalid)
            self._finish("b", self._responses, dut.m_axi_bvalid)
            self._drive_read()
            self._drive_response()
            self._drive_ready("ar", dut.m_axi_arready, len(self._reads) < 8)
            self._drive_ready("aw", dut.m_axi_awready, len(self._writes) < 8)
            self._drive_ready("w", dut.m_axi_wready, bool(self._writes))

    def _take_addresses(self) -> None:
        for channel, queue in (("ar", self._reads), ("aw", self._writes)):
            payload = self._offered(channel)
            if payload is None or not self._driven[channel]:
                continue
            address, length, size, burst, identifier = payload
            assert burst == 1, f"{channel} burst type must be INCR, not {burst}"
            assert 1 << size == self._bytes, f"{channel} size must be the bus width, not {size}"
            end = address + (length + 1) * self._bytes - 1
            assert address // PAGE == end // PAGE, f"{channel} burst at {address:#x} crosses 4 KiB"
            assert address % self._bytes == 0, f"{channel} address {address:#x} is not aligned"
            queue.append(_Burst(address, length + 1, identifier, self.cycle + self.latency))
            self.last_activity = self.cycle

    def _take_data(self) -> None:
        payload = self._offered("w")
        if payload is None or not self._driven["w"]:
            return
        data, strobe, last = payload
        burst = self._writes[0]
        response = self._response(burst.address, write=True)
        burst.response = max(burst.response, response)
        if response == OKAY:
            offset = burst.address - self.base
            for i in range(self._bytes):
                if strobe >> i & 1:
                    self.data[offset + i] = data >> 8 * i & 0xFF
        burst.address += self._bytes
        burst.beats -= 1
        assert bool(last) == (burst.beats == 0), "WLAST is not at the end of the burst"
        if last:
            burst.ready = self.cycle + 2
            self._responses.append(self._writes.popleft())
        self.last_activity = self.cycle

    def _finish(self, channel: str, queue: deque, valid) -> None:
        """End a beat of a channel; its READY is constant."""
        if not self._driven[channel]:
            return
        assert getattr(self._dut, f"m_axi_{channel}ready").value, f"{channel}ready must be 1"
        self._driven[channel] = False
        valid.value = 0
        self.last_activity = self.cycle
        burst = queue[0]
        if channel == "r":
            burst.address += self._bytes
            burst.beats -= 1
        if channel == "b" or burst.beats == 0:
            queue.popleft()

    def _drive_read(self) -> None:
        if self._driven["r"] or not self._reads or self.hold or self._pauses():
            return
        burst = self._reads[0]
        if burst.ready > self.cycle:
            return
        dut = self._dut
        response = self._response(burst.address, write=False)
        offset = burst.address - self.base
        word = self.data[offset : offset + self._bytes] if response == OKAY else b""
        dut.m_axi_rdata.value = int.from_bytes(word, "little")
        dut.m_axi_rresp.value = response
        dut.m_axi_rid.value = burst.identifier
        dut.m_axi_rlast.value = int(burst.beats == 1)
        dut.m_axi_rvalid.value = 1
        self._driven["r"] = True

    def _drive_response(self) -> None:
        if self._driven["b"] or not self._responses or self._pauses():
            return
        burst = self._responses[0]
        if burst.ready > self.cycle:
            return
        self._dut.m_axi_bresp.value = burst.response
        self._dut.m_axi_bid.value = burst.identifier
        self._dut.m_axi_bvalid.value = 1
        self._driven["b"] = True

    def _drive_ready(self, channel: str, signal, able: bool) -> None:
        ready = able and not self._pauses()
        if ready != self._driven[channel]:
            signal.value = int(ready)
            self._driven[channel] = ready

    def _offer(self, channel: str) -> tuple | None:
        """Return the payload of a VALID channel, as it is now."""
        if not int(getattr(self._dut, f"m_axi_{channel}valid").value):
            return None
        names = (f"m_axi_{channel}{name}" for name in _OFFERS[channel])
        return tuple(_defined(getattr(self._dut, name).value) for name in names)

    def _offered(self, channel: str) -> tuple | None:
        """Return the payload of a VALID channel; it must not change while READY is low."""
        payload = self._offers[channel]
        valid = payload is not None
        assert valid or channel not in self._waiting, f"{channel}valid fell before {channel}ready"
        if payload is None:
            return None
        before = self._waiting.pop(channel, payload)
        assert payload == before, f"{channel} changed before {channel}ready: {before} to {payload}"
        if not self._driven[channel]:
            self._waiting[channel] = payload
        return payload

    def _response(self, address: int, *, write: bool) -> int:
        if not self.base <= address <= self.base + len(self.data) - self._bytes:
            return DECERR
        for fault in self.faults:
            overlaps = address < fault.end and address + self._bytes > fault.begin
            if fault.write == write and overlaps:
                return fault.response
        return OKAY

    def _pauses(self) -> bool:
        return self.pause > 0 and self._rng.random() < self.pause
