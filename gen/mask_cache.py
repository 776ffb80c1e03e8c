# SPDX-License-Identifier: Apache-2.0
"""Which layers' masks stay in the mask cache, and where (docs/spec.md section 6).

What lies in the cache is needed only while a recurrent block runs, or one convolution outside of
any: each of them has the whole cache for itself. There the streams that save most bytes come first.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from hiddenfold.gen.actions import Action
from hiddenfold.gen.plan import ConvPlan
from hiddenfold.gen.streams import MaskStreams
from hiddenfold.gen.target import Target
from hiddenfold.hw.isa import Opcode

__all__ = ["PLACE", "cache_places"]

#: Bytes of a unit of the field `cache`.
PLACE = 64


def cache_places(program: Sequence[Action], masks: MaskStreams, target: Target) -> dict[str, int]:
    """Place of the masks of each operation that is cached, in units of `PLACE`, by its name."""
    places: dict[str, int] = {}
    for body, times in _scopes(program):
        candidates = []
        for name, convs in body.items():
            execution = convs[0].execution
            assert execution.stream is not None, "a convolution has weights"
            size = masks.bytes(execution.stream)
            tiles = sum(
                len(ConvPlan.make(execution, target, len(conv.images), conv.stripe).tiles)
                for conv in convs
            )
            # Each instruction of the first iteration reads its masks for its first pixel tile.
            candidates.append((size * (times * tiles - len(convs)), size, name))
        used = 0
        for saved, size, name in sorted(candidates, key=lambda c: -c[0]):
            if saved and used + size <= target.mask_cache:
                places[name] = used // PLACE
                used += -(-size // PLACE) * PLACE
    return places


def _scopes(program: Sequence[Action]) -> Iterator[tuple[dict[str, list[Action]], int]]:
    """Loop bodies and operations outside of loops, with the number of their iterations.

    A scope holds the convolutions of each operation, by its name.
    """
    body: dict[str, list[Action]] = {}
    alone: dict[str, list[Action]] = {}
    times = 0
    for action in program:
        if action.opcode == Opcode.LOOP:
            body, times = {}, action.count
        elif action.opcode == Opcode.ENDLOOP:
            yield body, times
            times = 0
        elif action.opcode == Opcode.CONV and action.node is not None:
            scope = body if times else alone
            scope.setdefault(action.node.execution.name, []).append(action)
    for name, convs in alone.items():
        yield {name: convs}, 1
