# SPDX-License-Identifier: Apache-2.0
"""When output has left: a model of the FIFO of results and logits and of its bursts."""

from __future__ import annotations

__all__ = ["Output"]

#: Beats that the FIFO holds of logits, and of a STORE, which reads while there is room for all that
#: is on its way; beats of a full burst, and cycles of a burst besides its beats.
_FIFO = 26
_STORED = 22
_BURST = 16
_GAP = 6


class Output:
    """What STOREs and classifiers send; memory takes a beat every `interval` cycles."""

    def __init__(self, interval: int) -> None:
        self._interval = interval
        #: When all that was sent has left.
        self._empty = 0

    def send(self, cycle: int, beats: int, *, store: bool = False) -> int:
        """When all of the beats that are made from a cycle on have left but what the FIFO holds."""
        gaps = -(-beats // _BURST) * max(0, _GAP - self._interval)
        self._empty = max(self._empty, cycle) + beats * self._interval + gaps
        return self._empty - (_STORED if store else _FIFO) * self._interval

    def last_burst(self, beats: int) -> int:
        """Cycles of the last burst when so many beats are sent in all."""
        return ((beats - 1) % _BURST + 1) * self._interval
