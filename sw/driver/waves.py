# SPDX-License-Identifier: Apache-2.0
"""What shows a waveform of the simulated accelerator: signals in groups, states by name.

Beside ``x.fst`` come ``x.gtkw`` (``gtkwave x.gtkw``), ``x.sucl`` (``surfer -c x.sucl x.fst``) and a
folder ``x.states`` with the names of states for GTKWave.
"""

from pathlib import Path
from typing import NamedTuple

from hiddenfold.gen.ports import ports
from hiddenfold.gen.states import state_machines
from hiddenfold.gen.target import Target

__all__ = ["write_views"]

#: The top in the waveform; Verilator puts it into a scope of its own.
TOP = "TOP.hiddenfold"
#: One-bit signals that say where cycles go: name of the group, path, names.
_EVENTS = (
    "array_cycle",
    "tile_stall",
    "drain_stall",
    "bus_stall",
    "read_beat",
    "write_beat",
)
#: Flags of GTKWave: hexadecimal, aligned to the right; with a file of names; groups.
_HEX, _NAMED, _OPEN, _CLOSE = "@22", "@2022", "@800200", "@1000200"


class _Signal(NamedTuple):
    name: str
    width: int
    states: str = ""

    def full(self, *, bits: bool) -> str:
        """The name in the waveform, with its range where a viewer wants it."""
        return f"{TOP}.{self.name}" + (f"[{self.width - 1}:0]" if bits and self.width > 1 else "")


def write_views(target: Target, waves: Path) -> list[Path]:
    """Write the files that show the waveform ``waves`` of a target; return them."""
    folder = waves.with_suffix(".states")
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    states = []
    for machine in state_machines(target):
        path = folder / f"{machine.path}.txt"
        digits = -(-machine.width // 4)
        path.write_text(
            "".join(f"{value:0{digits}x} {name}\n" for value, name in machine.names.items())
        )
        files.append(path)
        states.append(_Signal(machine.path, machine.width, str(path.resolve())))
    groups = {
        "clock and run": [_Signal("aclk", 1), _Signal("aresetn", 1), _Signal("irq", 1), states[0]],
        "states": states[1:],
        "cycles": [_Signal(f"control.{name}", 1) for name in _EVENTS],
    }
    for interface, title in (("s_axi", "registers"), ("m_axi", "memory")):
        groups[title] = [
            _Signal(port.name, port.width) for port in ports(target) if port.interface == interface
        ]
    views = {".gtkw": _gtkwave(groups, waves), ".sucl": _surfer(groups)}
    for suffix, text in views.items():
        path = waves.with_suffix(suffix)
        path.write_text(text)
        files.append(path)
    return files


def _gtkwave(groups: dict[str, list[_Signal]], waves: Path) -> str:
    lines = [f'[dumpfile] "{waves.resolve()}"']
    for title, signals in groups.items():
        lines += [_OPEN, f"-{title}"]
        for signal in signals:
            lines += [_NAMED, f"^1 {signal.states}"] if signal.states else [_HEX]
            lines.append(signal.full(bits=True))
        lines += [_CLOSE, f"-{title}"]
    return "\n".join([*lines, ""])


def _surfer(groups: dict[str, list[_Signal]]) -> str:
    lines = []
    for title, signals in groups.items():
        lines.append(f"divider_add {title}")
        lines += [f"variable_add {signal.full(bits=False)}" for signal in signals]
    return "\n".join([*lines, "zoom_fit", ""])
