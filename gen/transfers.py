# SPDX-License-Identifier: Apache-2.0
"""When LOAD and SAVE have moved their words: a model of `hw/transfer.py`.

Both work beside the units in cycles in which these leave the ports of the activation memory free.
Times are clock cycles since the start of the run.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from hiddenfold.gen.bus import ARRIVE, LOAD, Bus
from hiddenfold.gen.pipeline import Window, shared
from hiddenfold.gen.target import Target

__all__ = ["Loads", "Saves"]

#: Transfers of a kind that may be unfinished.
_DEPTH = 3
#: Cycles from the last beat of a word at the consumer to the cycle after its write.
_JOIN = 2
#: Cycles from the start of a SAVE to its first word, from its last beat to the end, and of a burst
#: besides its beats.
_FIRST = 3
_LAST = 10
_BURST = 3
_BURST_BEATS = 32
#: Part of a word that is lost in fractions.
_LITTLE = 1e-6


class Loads:
    """Reads words from external memory and writes them when no unit writes."""

    def __init__(self, target: Target, bus: Bus) -> None:
        self._bus = bus
        self._beats = 8 * target.lanes // target.bus_bits
        #: Beats that are written together.
        self._written_beats = max(1, 8 * target.part_lanes // target.bus_bits)
        self._port = bus.ports[LOAD]
        self._port.follow = self._write
        #: Numbers of the last beats of all transfers whose end is not known, and known ends.
        self._open: deque[int] = deque()
        self._ends: deque[int] = deque([0] * _DEPTH, maxlen=_DEPTH)
        self._busy: deque[tuple[int, int]] = deque()
        self._written = 0

    def begin(self, cycle: int, words: int) -> None:
        """Ask for a transfer."""
        beats = words * self._beats
        self._open.append(self._port.command(cycle + 1, beats) + beats)

    def occupy(self, span: tuple[int, int]) -> None:
        """A unit writes in all cycles from the first to the last."""
        if span[1] > span[0]:
            self._busy.append(span)

    def below(self, count: int, cycle: int) -> int:
        """From a cycle on, when fewer than `count` transfers are unfinished; 0: at once."""
        if not count:
            return cycle
        while len(self._open) >= count:
            self._port.finish(self._bus, self._open[0])
        behind = count - len(self._open)
        return max(cycle, self._ends[-behind] + 1) if behind <= _DEPTH else cycle

    def _write(self, start: int, end: int, last: int) -> int:
        """The cycle after the words of a burst were written whose last beat comes in `last`."""
        left = -(-(end - start) // self._written_beats)
        cycle = max(self._written, last + ARRIVE + _JOIN - (end - start) // self._written_beats)
        while self._busy and left:
            begin, after = self._busy[0]
            if cycle + left <= begin:
                break
            if cycle < begin:
                left -= begin - cycle
            cycle = max(cycle, after)
            if self._written <= after or cycle >= after:
                self._busy.popleft()
        self._written = cycle + left
        while self._open and self._open[0] <= end:
            self._open.popleft()
            self._ends.append(self._written)
        return self._written


@dataclass
class _Save:
    """A transfer: when it begins, all its words; the next one's address and number of those left.

    Words are counted in parts: several of them take their time together.
    """

    start: float
    base: int
    words: float
    left: float = -1.0

    def __post_init__(self) -> None:
        self.left = self.words

    @property
    def address(self) -> float:
        """Of the next word."""
        return self.base + self.words - self.left


class Saves:
    """Reads words when no unit reads its port, and sends them to external memory."""

    def __init__(self, target: Target, bus: Bus) -> None:
        self._beats = 8 * target.lanes // target.bus_bits
        self._interval = bus.memory.interval
        self._bank_words = target.act_bank_words
        self._open: deque[_Save] = deque()
        self._ends: deque[int] = deque([0] * _DEPTH, maxlen=_DEPTH)
        self._now = 0.0

    def begin(self, cycle: int, address: int, words: int) -> None:
        """Ask for a transfer."""
        self._open.append(_Save(cycle + _FIRST, address, words))

    def beside(self, window: Window, span: tuple[int, int]) -> None:
        """Go on to the end of a pixel tile, whose array reads, and whose sums drain in `span`."""
        if not self._open:
            return
        length = max(1, window.end - window.start)
        residual = 0.0
        if window.res_high:
            residual = min(1.0, (span[1] - span[0]) / length)
        place = int(self._open[0].address)
        taken = shared((place, place + 1), (window.low, window.high), self._bank_words)
        self._go(window.start, 1.0)
        self._go(window.end, max(0.0, 1 - taken * window.duty() - residual))

    def below(self, count: int, cycle: int) -> int:
        """From a cycle on, when fewer than `count` transfers are unfinished; 0: at once."""
        if not count:
            return cycle
        self._go(cycle, 1.0)
        while len(self._open) >= count:
            save = self._open[0]
            self._go(max(self._now, save.start) + save.left * self._beats + 1, 1.0)
        behind = count - len(self._open)
        return max(cycle, self._ends[-behind] + 1) if behind <= _DEPTH else cycle

    def _go(self, until: float, free: float) -> None:
        """Go on up to a cycle, with the port free in a share of all cycles."""
        rate = free / self._beats
        while self._open and self._now < until:
            save = self._open[0]
            if save.left == save.words:
                save.start = max(save.start, self._now)
            self._now = max(self._now, min(save.start, until))
            done = min(save.left, (until - self._now) * rate + _LITTLE)
            save.left -= done
            self._now = until if save.left else self._now + done / rate
            if not save.left:
                self._open.popleft()
                self._now = self._sent(save) + _LAST
                self._ends.append(round(self._now))

    def _sent(self, save: _Save) -> float:
        """When the last burst has been sent of a transfer whose last word has been read.

        A burst begins when all of it has been read and the one before it has been sent.
        """
        beats, sent = int(save.words * self._beats), 0.0
        pace = (self._now - save.start) / beats
        for read in range(0, beats, _BURST_BEATS):
            burst = min(_BURST_BEATS, beats - read)
            sent = max(sent, save.start + (read + burst) * pace) + burst * self._interval + _BURST
        return sent
