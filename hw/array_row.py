# SPDX-License-Identifier: Apache-2.0
"""A row of the masked array: its codes, and its sum in plain operators."""

from amaranth.hdl import Module, Mux, Signal, Value, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

#: Lanes that are added before the first pipeline register.
GROUP = 8
#: Cycles from ``data`` to ``partial``, whatever the mapping.
LATENCY = 7


def partial_bits(lanes: int) -> int:
    """Return the width of a signed row sum over all 8 planes."""
    return ceil_log2(lanes * 255 + 1) + 1


def tree(terms):
    """Return the sum of the unsigned terms as a balanced tree of adders."""
    terms = list(terms)
    while len(terms) > 1:
        pairs = [a + b for a, b in zip(terms[::2], terms[1::2], strict=False)]
        terms = pairs + terms[len(pairs) * 2 :]
    return terms[0]


def register(m: Module, value, name: str, cycles: int = 1):
    """Return ``value`` as it was ``cycles`` cycles ago; no reset."""
    for age in range(cycles):
        stage = Signal(value.shape(), name=f"{name}_{age + 1}", reset_less=True)
        m.d.sync += stage.eq(value)
        value = stage
    return value


class ArrayRow(wiring.Component):
    """One row of ``MaskedArray``; a module of its own, so that tools compile it once.

    A row works in *stages*: what belongs to stage s comes s cycles after stage 0, in which ``x0``
    is in cycle 1 of the array's pipeline. Each kind of FPGA has a subclass that says in which stage
    it wants each lane and the correction, and makes the sum.

    Members, for each stage s
    -------------------------
    load{s}, swap{s}
        Write the shadow codes; copy shadow to active.
    mask{s}, negative{s}, x{s}
        Codes and values of ``planes`` bits of :meth:`lanes_of` the stage.
    correction
        What :meth:`to_correction` makes of the number of negative lanes, in stage
        ``correction_stage``.
    pass_
        Pass of ``x0``.
    partial
        Signed row sum, in cycle ``LATENCY``.
    """

    stages = 2
    correction_stage = 1
    #: What one unit of ``correction`` stands for, with 8 planes.
    correction_weight = -255

    def __init__(self, *, lanes: int, planes: int):
        self._lanes = lanes
        self._planes = planes
        members = {
            "correction": In(len(self.to_correction(Signal(range(lanes + 1))))),
            "pass_": In(3),
            "partial": Out(partial_bits(lanes)),
        }
        for stage in range(self.stages):
            width = len(self.lanes_of(stage))
            members |= {
                f"load{stage}": In(1),
                f"swap{stage}": In(1),
                f"mask{stage}": In(width),
                f"negative{stage}": In(width),
                f"x{stage}": In(width * planes),
            }
        super().__init__(members)

    def stage_of(self, lane: int) -> int:
        """Return the stage in which ``lane`` is wanted."""
        return 0

    def lanes_of(self, stage: int) -> list[int]:
        """Return the lanes of a stage."""
        return [lane for lane in range(self._lanes) if self.stage_of(lane) == stage]

    def to_correction(self, count) -> Value:
        """Return what the row stores of the number of negative lanes."""
        return count

    def elaborate(self, platform):
        m = Module()

        def active(name: str, stage: int):
            new = getattr(self, name)
            shadow = Signal(len(new), name=f"shadow_{name}", reset_less=True)
            value = Signal(len(new), name=f"active_{name}", reset_less=True)
            with m.If(getattr(self, f"load{stage}")):
                m.d.sync += shadow.eq(new)
            with m.If(getattr(self, f"swap{stage}")):
                m.d.sync += value.eq(shadow)
            return value

        terms = {}
        for stage in range(self.stages):
            mask, negative = active(f"mask{stage}", stage), active(f"negative{stage}", stage)
            x = getattr(self, f"x{stage}")
            for place, lane in enumerate(self.lanes_of(stage)):
                terms[lane] = (x.word_select(place, self._planes), mask[place], negative[place])
        correction = active("correction", self.correction_stage)
        lanes = [terms[lane] for lane in range(self._lanes)]
        m.d.comb += self.partial.eq(self.sum(m, lanes, correction))
        return m

    def sum(self, m: Module, lanes: list, correction):
        """Return the row sum in cycle ``LATENCY``.

        ``lanes`` are (x, mask, negative), each in its stage, as is ``correction``.
        """
        raise NotImplementedError


class PortableRow(ArrayRow):
    """A row in plain operators, for simulation and for tools that know better."""

    def sum(self, m, lanes, correction):
        planes = self._planes
        # Cycle 1: masked, conditionally inverted activations, added in groups.
        groups = []
        for start in range(0, len(lanes), GROUP):
            total = tree(
                (x & mask.replicate(planes)) ^ negative.replicate(planes)
                for x, mask, negative in lanes[start : start + GROUP]
            )
            groups.append(register(m, total, f"group{start // GROUP}"))

        # Cycle 2: row sum, correction, weight of the planes.
        exact = Signal(signed(len(self.partial)))
        m.d.comb += exact.eq(tree(groups) - ((correction << planes) - correction))
        shifted = exact
        pass_ = register(m, self.pass_, "pass")
        for bit in range((8 // planes - 1).bit_length()):
            shifted = Mux(pass_[bit], shifted << (planes << bit), shifted)
        return register(m, shifted[: len(self.partial)], "sum", LATENCY - 2)
