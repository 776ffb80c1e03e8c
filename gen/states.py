# SPDX-License-Identifier: Apache-2.0
"""Names of the states of the accelerator's state machines, for those who look at waveforms."""

from __future__ import annotations

from typing import NamedTuple

from hiddenfold.gen.emit import Platform
from hiddenfold.gen.target import Target

__all__ = ["StateMachine", "state_machines"]


class StateMachine(NamedTuple):
    """A state register: its hierarchical name below the top, width, and state names by value."""

    path: str
    width: int
    names: dict[int, str]


def state_machines(target: Target) -> list[StateMachine]:
    """All state machines of a target, from the top down."""
    from amaranth.hdl import Fragment

    from hiddenfold.hw.core import Accelerator

    found: list[StateMachine] = []
    core = Accelerator(**target.hardware_parameters())
    _collect(Fragment.get(core, Platform("sim")), (), found)
    return found


def _collect(fragment, path: tuple[str, ...], found: list[StateMachine]) -> None:
    from amaranth.hdl import Signal
    from amaranth.hdl._ast import Switch

    seen = set()
    for statements in fragment.statements.values():
        for statement in statements:
            signal = statement.test if isinstance(statement, Switch) else None
            # Amaranth gives the state register of an FSM a function that names its values.
            if not isinstance(signal, Signal) or not callable(signal.decoder):
                continue
            if signal.name not in seen and signal.name.endswith("_state"):
                seen.add(signal.name)
                names = _names(signal)
                found.append(StateMachine(".".join((*path, signal.name)), len(signal), names))
    for part, name, _ in fragment.subfragments:
        _collect(part, (*path, name or "U$0"), found)


def _names(signal) -> dict[int, str]:
    names = {}
    for value in range(1 << len(signal)):
        try:
            names[value] = signal.decoder(value).rpartition("/")[0]
        except KeyError:
            break
    return names
