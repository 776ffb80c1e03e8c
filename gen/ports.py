# SPDX-License-Identifier: Apache-2.0
"""The ports of the generated Verilog: what each is, for people and for packaging."""

from __future__ import annotations

from typing import NamedTuple

from hiddenfold.gen.target import Target

__all__ = ["CLOCK", "RESET", "Port", "markdown", "ports"]

CLOCK, RESET = "aclk", "aresetn"
LITE, FULL = "s_axi", "m_axi"
#: Bytes of registers on the AXI4-Lite slave.
WINDOW = 4096

_SINGLE = {
    CLOCK: "clock of all other ports, rising edge",
    RESET: "reset, active low, synchronous: low in one rising edge or more",
    "irq": "interrupt, active high, level: IRQ_ENABLE and (DONE or ERROR)",
}
_CHANNELS = {
    "aw": "write address",
    "w": "write data",
    "b": "write response",
    "ar": "read address",
    "r": "read data",
}
_SIGNALS = {
    "id": "transaction ID, always 0",
    "addr": "byte address",
    "len": "beats of the burst less 1",
    "size": "bytes of a beat as a power of 2",
    "burst": "kind of burst, always INCR",
    "lock": "always 0: no exclusive access",
    "cache": "memory attributes",
    "prot": "protection attributes",
    "qos": "quality of service, always 0",
    "data": "data",
    "strb": "which bytes are written",
    "last": "last beat of the burst",
    "resp": "OKAY, SLVERR or DECERR",
    "valid": "the source offers a transfer",
    "ready": "the destination takes it",
}
#: Where a signal says something else.
_SPECIAL = {
    "s_axi_awprot": "ignored",
    "s_axi_arprot": "ignored",
    "s_axi_awaddr": "byte address of a register, multiples of 4",
    "s_axi_araddr": "byte address of a register, multiples of 4",
    "s_axi_bresp": "always OKAY",
    "s_axi_rresp": "always OKAY",
    "m_axi_awcache": "always 3: normal memory, not cached, bufferable",
    "m_axi_arcache": "always 3: normal memory, not cached, bufferable",
    "m_axi_awprot": "always 0",
    "m_axi_arprot": "always 0",
    "m_axi_bid": "ignored: one transaction after the other",
    "m_axi_rid": "ignored: reads are in order",
}


class Port(NamedTuple):
    """A port of the module; ``interface`` is "s_axi", "m_axi" or ""."""

    name: str
    direction: str
    width: int
    interface: str
    meaning: str

    @property
    def signal(self) -> str:
        """The name that AXI gives it, such as ``AWADDR``."""
        return self.name.removeprefix(f"{self.interface}_").upper()


def ports(target: Target) -> list[Port]:
    """All ports: clock, reset, interrupt, AXI4-Lite slave, AXI4 master."""
    # Imported here, since those who only ask for names need no hardware library.
    from amaranth.lib.wiring import Out

    from hiddenfold.hw.axi import axi4_lite_ports, axi4_ports

    found = [
        Port(name, "output" if name == "irq" else "input", 1, "", text)
        for name, text in _SINGLE.items()
    ]
    members = {LITE: axi4_lite_ports(LITE), FULL: axi4_ports(FULL, data_bits=target.bus_bits)}
    for interface, ports in members.items():
        for name, member in ports.items():
            direction = "output" if member.flow == Out else "input"
            meaning = _SPECIAL.get(name) or _meaning(name.removeprefix(f"{interface}_"))
            found.append(Port(name, direction, member.shape, interface, meaning))
    return found


def _meaning(signal: str) -> str:
    """What an AXI signal such as `awaddr` is."""
    channel = next(name for name in ("aw", "ar", "w", "b", "r") if signal.startswith(name))
    return f"{_CHANNELS[channel]}: {_SIGNALS[signal.removeprefix(channel)]}"


def markdown(target: Target) -> str:
    """The ports for people."""
    lines = [
        f"# Ports of target {target.name}",
        "",
        f"Module `hiddenfold`. Clock `{CLOCK}` and reset `{RESET}` are those of every port. All "
        "targets have these ports; only the width of the AXI4 master differs, here "
        f"{target.bus_bits} bits (`bus_bits`). The module has no parameters, the target has them.",
        "",
        "| port | direction | bits | clock | reset | meaning |",
        "|---|---|---|---|---|---|",
    ]
    for port in ports(target):
        domain = ("-", "-") if port.name == CLOCK else (f"`{CLOCK}`", f"`{RESET}`, active low")
        if port.name == RESET:
            domain = (f"`{CLOCK}`", "-")
        row = (f"`{port.name}`", port.direction, str(port.width), *domain, port.meaning)
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join([*lines, ""])
