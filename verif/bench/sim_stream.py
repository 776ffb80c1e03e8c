# SPDX-License-Identifier: Apache-2.0
"""Stream drivers and monitors for the Amaranth simulator."""

import random
from collections.abc import Callable, Iterable

from amaranth.sim import Simulator

#: A pattern is asked once per cycle whether to be active.
Pattern = Callable[[], bool]


def always() -> bool:
    """Pattern without gaps."""
    return True


def sometimes(probability: float, seed: int) -> Pattern:
    """Return a pattern that is active with ``probability``, in bursts as well as single cycles."""
    generator = random.Random(seed)
    left, active = 0, False

    def pattern() -> bool:
        nonlocal left, active
        if left == 0:
            left = generator.choice((1, 1, 1, 2, 5, 13))
            active = generator.random() < probability
        left -= 1
        return active

    return pattern


async def wait_until(ctx, condition, limit: int = 5000) -> None:
    """Wait until ``condition`` was true in a cycle; raise ``TimeoutError`` after ``limit``."""
    for _ in range(limit):
        _, _, holds = await ctx.tick().sample(condition)
        if holds:
            return
    raise TimeoutError(f"condition not met in {limit} cycles")


async def send(ctx, stream, payloads: Iterable, pattern: Pattern = always) -> None:
    """Offer ``payloads`` one after the other; an offer stands until it is taken."""
    for payload in payloads:
        while not pattern():
            await ctx.tick()
        ctx.set(stream.payload, payload)
        ctx.set(stream.valid, 1)
        await wait_until(ctx, stream.ready)
        ctx.set(stream.valid, 0)


class Collector:
    """Takes payloads into ``received`` and checks that an offer stands until it is taken."""

    def __init__(self, stream, pattern: Pattern = always):
        self.received: list = []
        self._stream = stream
        self._pattern = pattern

    async def run(self, ctx) -> None:
        """Background testbench."""
        waiting = None
        while True:
            ready = bool(self._pattern())
            ctx.set(self._stream.ready, ready)
            _, _, valid, payload = await ctx.tick().sample(self._stream.valid, self._stream.payload)
            if waiting is not None:
                assert valid and payload == waiting, "stream withdrew or changed its offer"
            waiting = payload if valid and not ready else None
            if valid and ready:
                self.received.append(payload)

    async def wait(self, ctx, count: int, limit: int) -> int:
        """Wait until ``count`` payloads came and return the cycles it took.

        Raises ``TimeoutError`` after ``limit`` cycles.
        """
        for cycles in range(limit + 1):
            if len(self.received) >= count:
                return cycles
            await ctx.tick()
        raise TimeoutError(f"{len(self.received)} of {count} payloads after {limit} cycles")


class Counter:
    """Counts into ``values`` the cycles in which each signal was 1."""

    def __init__(self, *signals):
        self.values = [0] * len(signals)
        self._signals = signals

    async def run(self, ctx) -> None:
        """Background testbench."""
        while True:
            _, _, *levels = await ctx.tick().sample(*self._signals)
            self.values = [value + level for value, level in zip(self.values, levels, strict=True)]


def simulate(dut, testbench, *background) -> None:
    """Run ``testbench`` to its end on a 1 MHz clock, with others in the background."""
    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    for process in background:
        simulator.add_testbench(process, background=True)
    simulator.add_testbench(testbench)
    simulator.run()
