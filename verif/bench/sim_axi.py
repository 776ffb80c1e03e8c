# SPDX-License-Identifier: Apache-2.0
"""AXI4 memory and AXI4-Lite master for the Amaranth simulator.

Both check the rules that the other side must keep and raise ``AssertionError`` where it does not.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from hiddenfold.verif.bench.sim_stream import Pattern, always

OKAY, SLVERR, DECERR = 0, 2, 3

_ADDRESS = ("addr", "len", "size", "burst", "lock", "cache", "prot", "qos", "id")


@dataclass
class Burst:
    """One burst as the memory saw it: byte ``address``, ``beats``, ``cycle`` of its address."""

    address: int
    beats: int
    cycle: int


def _no_error(address: int) -> int:
    return OKAY


class _Channel:
    """Address channel of a memory: takes bursts and checks them."""

    def __init__(self, dut, name: str, data_bits: int, pattern: Pattern, shy: bool):
        self._signals = [getattr(dut, f"m_axi_{name}{field}") for field in _ADDRESS]
        self._valid = getattr(dut, f"m_axi_{name}valid")
        self._ready = getattr(dut, f"m_axi_{name}ready")
        self._bytes = data_bits // 8
        self._pattern = pattern
        self._shy = shy
        self._is_ready = False
        self._waiting: tuple[int, ...] | None = None

    @property
    def sampled(self) -> list:
        return [self._valid, *self._signals]

    def before_edge(self, ctx) -> None:
        self._is_ready = bool(self._pattern() and (not self._shy or ctx.get(self._valid)))
        ctx.set(self._ready, self._is_ready)

    def after_edge(self, cycle: int, valid: int, *fields: int) -> Burst | None:
        if self._waiting is not None:
            assert valid and fields == self._waiting, "address withdrawn or changed"
        self._waiting = fields if valid and not self._is_ready else None
        if not (valid and self._is_ready):
            return None
        address, length, size, burst, lock, cache, prot, qos, ident = fields
        assert (1 << size, burst, lock, cache, prot, qos, ident) == (self._bytes, 1, 0, 3, 0, 0, 0)
        assert address % self._bytes == 0, f"burst at {address:#x} is not aligned to beats"
        last = address + (length + 1) * self._bytes - 1
        assert address >> 12 == last >> 12, f"burst at {address:#x} crosses 4 KiB"
        return Burst(address, length + 1, cycle)


class AxiMemory:
    """AXI4 slave with a flat memory behind the ``m_axi_*`` members of ``dut``.

    ``latency`` is the cycles from an accepted read address to its first beat (bursts overlap).
    ``ar, r, aw, w, b`` are the activity patterns of the channels, ``read_error`` and
    ``write_error`` give the response for a beat's or a burst's address. A ``shy`` memory is ready
    only after it has seen valid, as AXI allows. ``reads`` and ``writes`` list the bursts seen;
    ``finished_reads`` and ``finished_writes`` count those completed.
    """

    def __init__(
        self,
        dut,
        content: bytes,
        *,
        data_bits: int,
        base: int = 0,
        latency: int = 1,
        ar: Pattern = always,
        r: Pattern = always,
        aw: Pattern = always,
        w: Pattern = always,
        b: Pattern = always,
        read_error: Callable[[int], int] = _no_error,
        write_error: Callable[[int], int] = _no_error,
        shy: bool = False,
    ):
        self.content = bytearray(content)
        self.reads: list[Burst] = []
        self.writes: list[Burst] = []
        self.finished_reads = 0
        self.finished_writes = 0
        self._dut = dut
        self._data_bits = data_bits
        self._bytes = data_bits // 8
        self._base = base
        self._latency = latency
        self._patterns = {"ar": ar, "r": r, "aw": aw, "w": w, "b": b}
        self._read_error = read_error
        self._write_error = write_error
        self._shy = shy

    async def run_reads(self, ctx) -> None:
        """Background testbench of the AR and R channels."""
        dut = self._dut
        channel = _Channel(dut, "ar", self._data_bits, self._patterns["ar"], self._shy)
        queue: deque[tuple[int, bool, int]] = deque()  # address, last, earliest cycle of each beat
        offered = None
        cycle = 0
        while True:
            channel.before_edge(ctx)
            if offered is None and queue and queue[0][2] <= cycle and self._patterns["r"]():
                offered = queue.popleft()
                address, last, _ = offered
                ctx.set(dut.m_axi_rdata, self._load(address))
                ctx.set(dut.m_axi_rresp, self._read_error(address))
                ctx.set(dut.m_axi_rlast, last)
                ctx.set(dut.m_axi_rvalid, 1)
            elif offered is None:
                ctx.set(dut.m_axi_rvalid, 0)
            _, _, ready, *address_fields = await ctx.tick().sample(
                dut.m_axi_rready, *channel.sampled
            )
            if offered is not None and ready:
                self.finished_reads += offered[1]
                offered = None
            burst = channel.after_edge(cycle, *address_fields)
            if burst is not None:
                self.reads.append(burst)
                for beat in range(burst.beats):
                    queue.append(
                        (
                            burst.address + beat * self._bytes,
                            beat == burst.beats - 1,
                            cycle + self._latency,
                        )
                    )
            cycle += 1

    async def run_writes(self, ctx) -> None:
        """Background testbench of the AW, W and B channels."""
        dut = self._dut
        channel = _Channel(dut, "aw", self._data_bits, self._patterns["aw"], self._shy)
        bursts: deque[Burst] = deque()
        beats: deque[tuple[int, int]] = deque()  # data, last
        answers: deque[int] = deque()
        waiting = None
        answering = False
        cycle = 0
        while True:
            channel.before_edge(ctx)
            w_ready = bool(self._patterns["w"]() and (not self._shy or ctx.get(dut.m_axi_wvalid)))
            ctx.set(dut.m_axi_wready, w_ready)
            if not answering and answers and self._patterns["b"]():
                ctx.set(dut.m_axi_bresp, answers.popleft())
                answering = True
            ctx.set(dut.m_axi_bvalid, answering)
            (
                _,
                _,
                b_ready,
                w_valid,
                w_data,
                w_last,
                w_strobe,
                *address_fields,
            ) = await ctx.tick().sample(
                dut.m_axi_bready,
                dut.m_axi_wvalid,
                dut.m_axi_wdata,
                dut.m_axi_wlast,
                dut.m_axi_wstrb,
                *channel.sampled,
            )
            if answering and b_ready:
                answering = False
                self.finished_writes += 1
            if waiting is not None:
                assert w_valid and (w_data, w_last) == waiting, "write beat withdrawn or changed"
            waiting = (w_data, w_last) if w_valid and not w_ready else None
            if w_valid and w_ready:
                assert w_strobe == (1 << self._bytes) - 1
                beats.append((w_data, w_last))
            burst = channel.after_edge(cycle, *address_fields)
            if burst is not None:
                self.writes.append(burst)
                bursts.append(burst)
            while bursts and len(beats) >= bursts[0].beats:
                answers.append(self._finish_write(bursts.popleft(), beats))
            cycle += 1

    def _finish_write(self, burst: Burst, beats: deque) -> int:
        response = self._write_error(burst.address)
        for beat in range(burst.beats):
            word, last = beats.popleft()
            assert last == (beat == burst.beats - 1), "WLAST in the wrong beat"
            if response == OKAY:
                place = burst.address - self._base + beat * self._bytes
                assert 0 <= place <= len(self.content) - self._bytes, "write outside the memory"
                self.content[place : place + self._bytes] = word.to_bytes(self._bytes, "little")
        return response

    def _load(self, address: int) -> int:
        place = address - self._base
        assert 0 <= place <= len(self.content) - self._bytes, f"read at {address:#x} is outside"
        return int.from_bytes(self.content[place : place + self._bytes], "little")


class AxiLiteMaster:
    """AXI4-Lite master for the ``s_axi_*`` members of ``dut``; use from one testbench.

    Waits are cycles before the valid signal of a channel or the ready signal of its response.
    """

    LIMIT = 50

    def __init__(self, dut):
        self._dut = dut

    async def write(
        self,
        ctx,
        address: int,
        value: int,
        *,
        strobe: int = 0b1111,
        address_wait: int = 0,
        data_wait: int = 0,
        response_wait: int = 0,
    ) -> int:
        """Write a word and return the response."""
        dut = self._dut
        address_done = data_done = False
        response = None
        for cycle in range(self.LIMIT):
            ctx.set(dut.s_axi_awvalid, not address_done and cycle >= address_wait)
            ctx.set(dut.s_axi_awaddr, address)
            ctx.set(dut.s_axi_wvalid, not data_done and cycle >= data_wait)
            ctx.set(dut.s_axi_wdata, value)
            ctx.set(dut.s_axi_wstrb, strobe)
            ctx.set(dut.s_axi_bready, cycle >= response_wait)
            before = address_done and data_done
            _, _, aw, w, b_valid, b_response = await ctx.tick().sample(
                dut.s_axi_awready & dut.s_axi_awvalid,
                dut.s_axi_wready & dut.s_axi_wvalid,
                dut.s_axi_bvalid,
                dut.s_axi_bresp,
            )
            assert before or not b_valid, "response before address and data"
            assert b_valid or response is None, "response withdrawn"
            address_done |= bool(aw)
            data_done |= bool(w)
            if b_valid:
                assert response in (None, b_response), "response changed"
                response = b_response
                if cycle >= response_wait:
                    ctx.set(dut.s_axi_bready, 0)
                    return response
        raise TimeoutError(f"no answer to the write at {address:#x}")

    async def read(
        self, ctx, address: int, *, address_wait: int = 0, response_wait: int = 0
    ) -> tuple[int, int]:
        """Read a word and return (value, response)."""
        dut = self._dut
        address_done = False
        answer = None
        for cycle in range(self.LIMIT):
            ctx.set(dut.s_axi_arvalid, not address_done and cycle >= address_wait)
            ctx.set(dut.s_axi_araddr, address)
            ctx.set(dut.s_axi_rready, cycle >= response_wait)
            before = address_done
            _, _, ar, r_valid, r_data, r_response = await ctx.tick().sample(
                dut.s_axi_arready & dut.s_axi_arvalid,
                dut.s_axi_rvalid,
                dut.s_axi_rdata,
                dut.s_axi_rresp,
            )
            assert before or not r_valid, "data before address"
            assert r_valid or answer is None, "data withdrawn"
            address_done |= bool(ar)
            if r_valid:
                assert answer in (None, (r_data, r_response)), "data changed"
                answer = (r_data, r_response)
                if cycle >= response_wait:
                    ctx.set(dut.s_axi_rready, 0)
                    return answer
        raise TimeoutError(f"no answer to the read at {address:#x}")


async def settle(ctx, dut, limit: int = 500) -> None:
    """Wait until the channel ``dut`` is idle, and then for what should not come.

    Raises ``TimeoutError`` after ``limit`` cycles.
    """
    for _ in range(limit):
        await ctx.tick()
        if ctx.get(dut.idle):
            break
    else:
        raise TimeoutError("channel does not become idle")
    await ctx.tick().repeat(40)
    assert ctx.get(dut.idle)
