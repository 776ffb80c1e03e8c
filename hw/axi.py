# SPDX-License-Identifier: Apache-2.0
"""AXI4 and AXI4-Lite: port lists, and what the two master channels share.

The channels (:mod:`hiddenfold.hw.axi_read`, :mod:`hiddenfold.hw.axi_write`) are in order with a
single ID, use INCR bursts of whole bus beats that never cross 4 KiB, and stop by themselves at the
first error (docs/spec.md section 9): no burst begins after it, and those begun are finished.
"""

from amaranth.hdl import Cat, Value
from amaranth.lib import data
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

#: Payload of a read command: ``beats`` bus beats from a beat-aligned byte address.
COMMAND = data.StructLayout({"address": 32, "beats": 24})

_BOUNDARY = 4096
_MAX_BURST = 256
_DATA_BITS = (32, 64, 128, 256, 512, 1024)


def axi4_read_ports(prefix: str, *, data_bits: int, addr_bits: int = 32) -> dict:
    """Return the AR and R members of an AXI4 master with a 1-bit ID."""
    return {
        f"{prefix}_arid": Out(1),
        **_address_ports(f"{prefix}_ar", addr_bits),
        f"{prefix}_rid": In(1),
        f"{prefix}_rdata": In(data_bits),
        f"{prefix}_rresp": In(2),
        f"{prefix}_rlast": In(1),
        f"{prefix}_rvalid": In(1),
        f"{prefix}_rready": Out(1),
    }


def axi4_write_ports(prefix: str, *, data_bits: int, addr_bits: int = 32) -> dict:
    """Return the AW, W and B members of an AXI4 master with a 1-bit ID."""
    return {
        f"{prefix}_awid": Out(1),
        **_address_ports(f"{prefix}_aw", addr_bits),
        f"{prefix}_wdata": Out(data_bits),
        f"{prefix}_wstrb": Out(data_bits // 8),
        f"{prefix}_wlast": Out(1),
        f"{prefix}_wvalid": Out(1),
        f"{prefix}_wready": In(1),
        f"{prefix}_bid": In(1),
        f"{prefix}_bresp": In(2),
        f"{prefix}_bvalid": In(1),
        f"{prefix}_bready": Out(1),
    }


def axi4_ports(prefix: str, *, data_bits: int, addr_bits: int = 32) -> dict:
    """Return all members of an AXI4 master with a 1-bit ID (always 0)."""
    return {
        **axi4_read_ports(prefix, data_bits=data_bits, addr_bits=addr_bits),
        **axi4_write_ports(prefix, data_bits=data_bits, addr_bits=addr_bits),
    }


def axi4_lite_ports(prefix: str, *, addr_bits: int = 12) -> dict:
    """Return all members of an AXI4-Lite slave with 32 data bits."""
    return {
        f"{prefix}_awaddr": In(addr_bits),
        f"{prefix}_awprot": In(3),
        f"{prefix}_awvalid": In(1),
        f"{prefix}_awready": Out(1),
        f"{prefix}_wdata": In(32),
        f"{prefix}_wstrb": In(4),
        f"{prefix}_wvalid": In(1),
        f"{prefix}_wready": Out(1),
        f"{prefix}_bresp": Out(2),
        f"{prefix}_bvalid": Out(1),
        f"{prefix}_bready": In(1),
        f"{prefix}_araddr": In(addr_bits),
        f"{prefix}_arprot": In(3),
        f"{prefix}_arvalid": In(1),
        f"{prefix}_arready": Out(1),
        f"{prefix}_rdata": Out(32),
        f"{prefix}_rresp": Out(2),
        f"{prefix}_rvalid": Out(1),
        f"{prefix}_rready": In(1),
    }


def _address_ports(prefix: str, addr_bits: int) -> dict:
    return {
        f"{prefix}addr": Out(addr_bits),
        f"{prefix}len": Out(8),
        f"{prefix}size": Out(3),
        f"{prefix}burst": Out(2),
        f"{prefix}lock": Out(1),
        f"{prefix}cache": Out(4),
        f"{prefix}prot": Out(3),
        f"{prefix}qos": Out(4),
        f"{prefix}valid": Out(1),
        f"{prefix}ready": In(1),
    }


def check_channel(*, data_bits: int, max_burst: int, outstanding: int) -> None:
    """Raise ``ValueError`` unless a channel can have these parameters."""
    if data_bits not in _DATA_BITS:
        raise ValueError(f"AXI data bits must be one of {_DATA_BITS}, not {data_bits!r}")
    if not 1 <= max_burst <= _MAX_BURST or max_burst & (max_burst - 1):
        raise ValueError(
            f"longest burst must be a power of two in 1..{_MAX_BURST}, not {max_burst!r}"
        )
    if outstanding < 1:
        raise ValueError(f"bursts in flight must be at least 1, not {outstanding!r}")


def address_constants(component, channel: str, data_bits: int) -> list:
    """Return the assignments of the address channel's signals that never change."""
    return [
        getattr(component, f"m_axi_{channel}size").eq(exact_log2(data_bits // 8)),
        getattr(component, f"m_axi_{channel}burst").eq(0b01),  # INCR
        getattr(component, f"m_axi_{channel}cache").eq(0b0011),  # normal, not cached, bufferable
    ]


def burst_limit(beat: Value, max_burst: int, beat_bits: int) -> Value:
    """Return AxLEN of the longest burst from ``beat`` on, an address in beats of 2^beat_bits bytes.

    It ends at the next 4 KiB boundary at the latest.
    """
    after = ~beat[: exact_log2(_BOUNDARY) - beat_bits]  # beats from the next one to the boundary
    bits = exact_log2(max_burst)
    return after[:bits] | after[bits:].any().replicate(len(after[:bits]))


def add(a: Value, b: Value, carry: Value) -> Value:
    """Return ``a + b + carry``, with a carry of one bit, in one adder."""
    return (Cat(carry, a) + Cat(carry, b).as_signed())[1:]
