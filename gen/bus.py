# SPDX-License-Identifier: Apache-2.0
"""When data arrive: a model of the read channel and of external memory, burst by burst.

Several ports share the bus, as in `hw/axi_read.py`: each has commands, which become bursts, one
after the other, as soon as the port's FIFO has room for the longest burst. All data come in the
order of the bursts. Times are clock cycles since the start of a run.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from hiddenfold.hw import isa

__all__ = ["AFFINE", "FETCH", "HALF_AFFINE", "IMAGE", "LOAD", "MASKS", "Bus", "Memory", "Port"]

#: Ports in the order of their priority, and the beats that their FIFOs hold; instructions are taken
#: as they come.
FETCH, AFFINE, MASKS, IMAGE, LOAD = range(5)
_DEPTHS = (0, 64, 256, 64, 128)
#: Beats of constants after which room in their FIFO is made known: only long tables have more.
HALF_AFFINE = _DEPTHS[AFFINE] // 2
#: Longest burst, and bursts that may be unfinished.
_BURST = 32
_OUTSTANDING = 8
#: Cycles from a command, or its room, or another burst's end, to a burst.
_SPLIT = 3
#: Cycles from a burst to the next one, of whichever port.
_TURN = 4
#: Cycles from a burst to the first beat besides the latency of the memory.
_ADDRESS = 2
#: Cycles from a beat on the bus to the port's consumer.
ARRIVE = 4
#: Cycles from a beat that leaves the FIFO to the burst that takes its room.
_ROOM = 1 + _SPLIT


class Memory(NamedTuple):
    """External memory: cycles from an address to the first beat, and from beat to beat."""

    latency: int = 40
    interval: int = 1


class _Burst(NamedTuple):
    """Beats from number `start` to `end` of a port, the first in cycle `first`."""

    start: int
    end: int
    first: int


class Port:
    """One requester. Beats are numbered through the whole run."""

    def __init__(self, depth: int, interval: int) -> None:
        self._depth = depth
        self._interval = interval
        #: Cycle from which on it is asked for, beats, and how many such commands follow.
        self._commands: deque[list[int]] = deque()
        self._left = 0
        self._ready = 0
        self._taken: deque[tuple[int, int]] = deque()
        self._last_taken = (0, 0)
        #: What takes the beats of a burst by itself: called with the numbers of its first beat and
        #: of the one behind it and the cycle of its last one, it returns when they are taken.
        self.follow: Callable[[int, int, int], int] | None = None
        self._unfollowed: deque[tuple[int, int, int]] = deque()
        self.bursts: deque[_Burst] = deque()
        #: Beats of all commands, and those of all bursts.
        self.asked = 0
        self.issued = 0

    def command(self, cycle: int, beats: int, count: int = 1) -> int:
        """Ask for `count` times `beats` beats from `cycle` on; return the first one's number."""
        first = self.asked
        if beats and count:
            self._commands.append([cycle, beats, count])
            self.asked += beats * count
        return first

    def take(self, beats: int, cycle: int) -> None:
        """The consumer has taken the beats below number `beats` in `cycle`."""
        self._taken.append((beats, cycle))

    def offer(self) -> int | None:
        """When the next burst can begin; None while there is none, or nobody can know."""
        if not self._left:
            if not self._commands:
                return None
            command = self._commands[0]
            self._ready = command[0] + _SPLIT
            self._left = command[1]
            command[2] -= 1
            if not command[2]:
                self._commands.popleft()
        need = self.issued + _BURST - self._depth
        if need <= 0 or not self._depth:
            return self._ready
        self._follow(need)
        while self._taken and self._taken[0][0] < need:
            self._last_taken = self._taken.popleft()
        if not self._taken:
            return None
        (before, start), (beats, cycle) = self._last_taken, self._taken[0]
        start = min(start, cycle)
        share = (need - before) / max(beats - before, 1)
        return max(self._ready, start + int((cycle - start) * share) + _ROOM)

    def _follow(self, beats: int) -> None:
        """Let the beats below number `beats` be taken, as far as they have been asked for."""
        while self.follow is not None and self._unfollowed and self._unfollowed[0][0] < beats:
            start, end, last = self._unfollowed.popleft()
            taken = self.follow(start, end, last)
            self.take(start + 1, taken - (end - start) * self._interval)
            self.take(end, taken)

    def finish(self, bus: Bus, beats: int) -> None:
        """Let all beats below number `beats` come and be taken."""
        bus.arrival(bus.ports.index(self), beats - 1)
        self._follow(beats)

    def begin(self, cycle: int, first: int) -> int:
        """The next burst begins; its first beat comes in cycle `first`. Returns its length."""
        beats = min(self._left, _BURST)
        self._left -= beats
        self.bursts.append(_Burst(self.issued, self.issued + beats, first))
        if self.follow is not None:
            last = first + (beats - 1) * self._interval
            self._unfollowed.append((self.issued, self.issued + beats, last))
        self.issued += beats
        return beats


class Bus:
    """The read channel and its memory."""

    def __init__(self, memory: Memory) -> None:
        self.memory = memory
        self.ports = [Port(depth, memory.interval) for depth in _DEPTHS]
        self._begun = -_TURN
        self._free = 0
        self._ends: deque[int] = deque([-1] * _OUTSTANDING, maxlen=_OUTSTANDING)

    def run(self, cycle: int) -> None:
        """Begin all bursts that begin up to a cycle."""
        while self._step(cycle):
            pass

    def arrival(self, port: int, beat: int) -> int:
        """Cycle in which a beat is on the bus; must be asked for in the order of the beats."""
        one = self.ports[port]
        while one.issued <= beat:
            if not self._step(None):
                raise AssertionError(f"port {port} never gets beat {beat}")
        bursts = one.bursts
        while bursts[0].end <= beat:
            bursts.popleft()
        return bursts[0].first + (beat - bursts[0].start) * self.memory.interval

    def arrived(self, port: int, cycle: int) -> int:
        """Beats of a port that have come up to a cycle."""
        interval = self.memory.interval
        for burst in reversed(self.ports[port].bursts):
            if burst.first <= cycle:
                return min(burst.end, burst.start + (cycle - burst.first) // interval + 1)
        return self.ports[port].bursts[0].start if self.ports[port].bursts else 0

    def _step(self, until: int | None) -> bool:
        """Begin the next burst of all; False if there is none, or none up to a cycle."""
        soonest = max(self._begun + _TURN, self._ends[0] + 1 + _SPLIT)
        best: tuple[int, Port] | None = None
        for port in self.ports:
            cycle = port.offer()
            if cycle is not None and (best is None or max(cycle, soonest) < best[0]):
                best = max(cycle, soonest), port
        if best is None or (until is not None and best[0] > until):
            return False
        cycle, port = best
        first = max(cycle + _ADDRESS + self.memory.latency, self._free)
        beats = port.begin(cycle, first)
        last = first + (beats - 1) * self.memory.interval
        self._begun, self._free = cycle, last + self.memory.interval
        self._ends.append(last)
        return True


def instruction_beats(bus_bits: int) -> int:
    """Beats of an instruction."""
    return 8 * isa.BYTES // bus_bits
