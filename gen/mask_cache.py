# SPDX-License-Identifier: Apache-2.0
"""Which layers' masks stay in the mask cache, and where (docs/spec.md section 6).

What lies in the cache is needed only while a recurrent block runs, or one convolution outside of
any: each of them has the whole cache for itself. There the streams that save most bytes come first.
"""

from __future__ import annotations

from collections.abc import Iterator

from hiddenfold.gen.graph import Node
from hiddenfold.gen.plan import ConvPlan
from hiddenfold.gen.schedule import Schedule
from hiddenfold.gen.streams import MaskStreams
from hiddenfold.gen.target import Target

__all__ = ["PLACE", "cache_places"]

#: Bytes of a unit of the field `cache`.
PLACE = 64


def cache_places(schedule: Schedule, masks: MaskStreams, target: Target) -> dict[str, int]:
    """Place of the masks of each operation that is cached, in units of `PLACE`, by its name."""
    places: dict[str, int] = {}
    for nodes, times in _scopes(schedule.graph.nodes):
        candidates = []
        for node in nodes:
            execution = node.execution
            if execution.stream is None or node.copy:
                continue
            plan = ConvPlan.make(execution, target, schedule.images_at_once(execution))
            size = masks.bytes(execution.stream)
            candidates.append((size * (times * len(plan.tiles) - 1), size, execution.name))
        used = 0
        for saved, size, name in sorted(candidates, key=lambda c: -c[0]):
            if saved and used + size <= target.mask_cache:
                places[name] = used // PLACE
                used += -(-size // PLACE) * PLACE
    return places


def _scopes(nodes: list[Node]) -> Iterator[tuple[list[Node], int]]:
    """Loop bodies and single nodes outside of loops, with the number of their iterations."""
    body: list[Node] = []
    times = 1
    for node in nodes:
        times = node.loop_count if node.loop_start else times
        body.append(node)
        inside = (node.loop_start or len(body) > 1) and not node.loop_end
        if not inside:
            yield body, times
            body, times = [], 1
