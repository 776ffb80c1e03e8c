# SPDX-License-Identifier: Apache-2.0
"""Portable parts and those of vendor cells, side by side, fed with random numbers."""

from pathlib import Path

from amaranth.back import rtlil
from amaranth.hdl import Cat, ClockDomain, Elaboratable, Fragment, Module, Mux, Signal

from hiddenfold.gen.emit import Platform
from hiddenfold.gen.tools import find_verilator, run_tool, run_yosys
from hiddenfold.hw.array import MaskedArray
from hiddenfold.hw.requant import RequantizeChannel
from hiddenfold.hw.signature import leap
from hiddenfold.verif.formal.weights import MODELS

_MAIN = """
#include <cstdlib>
#include "Vpair.h"
// Returns 0 if both agree in each of argv[1] cycles after the first ones.
int main(int argc, char** argv) {
  Vpair pair;
  for (int cycle = 0; cycle < std::atoi(argv[1]); cycle++) {
    pair.clk = 0, pair.eval();
    pair.clk = 1, pair.eval();
    if (cycle > 16 && !pair.equal) return 1;
  }
  return pair.moved ? 0 : 2;
}
"""


def random_bits(m: Module, count: int) -> Signal:
    """Return ``count`` random bits, new ones in each cycle."""
    words = []
    for number in range(-(-count // 64)):
        seed = (0x9E3779B97F4A7C15 * (number + 1 + count)) % (1 << 64)
        state = Signal(64, init=seed, reset_less=True)
        m.d.sync += state.eq(leap(state))
        words.append(state)
    return Cat(words)[:count]


class ChannelPair(Elaboratable):
    """As :class:`ArrayPair`, for :class:`hiddenfold.hw.requant.RequantizeChannel`."""

    def __init__(self, *, family: str, acc_bits: int):
        self._family = family
        self._acc_bits = acc_bits
        self.equal = Signal()
        self.moved = Signal()

    def elaborate(self, platform):
        m = Module()
        channels = [RequantizeChannel(acc_bits=self._acc_bits) for _ in range(2)]
        m.submodules.portable = channels[0]
        m.submodules.mapped = Fragment.get(channels[1], Platform(self._family))
        # Numbers of all sizes: shifted down by random amounts.
        amounts = random_bits(m, 20)
        acc = random_bits(m, self._acc_bits).as_signed() >> amounts[:5]
        bias = random_bits(m, 88)[64:].as_signed() >> amounts[5:10]
        multiplier = random_bits(m, 16).as_signed() >> amounts[10:14]
        others = random_bits(m, 40)
        for channel in channels:
            m.d.comb += [
                channel.acc.eq(acc),
                channel.multiplier.eq(multiplier),
                channel.bias.eq(bias),
                channel.res.eq(others[:8]),
                channel.residual.eq(others[8:24]),
                channel.copy.eq(1 << others[24:26]),
                channel.half.eq(others[26]),
                channel.limit.eq((1 << others[27:30] + 1) - 1),
                channel.keep.eq(others[30:32] != 0),
            ]
        m.d.comb += self.equal.eq(channels[0].y == channels[1].y)
        # Neither 0 nor the limit.
        m.d.sync += self.moved.eq(self.moved | ((channels[1].y + 1) & channels[1].y != 0))
        return m


class ArrayPair(Elaboratable):
    """Outputs ``equal`` and, once a result was not zero, ``moved``."""

    def __init__(self, *, family: str, rows: int, lanes: int, load_rows: int):
        self._family = family
        self._lanes = lanes
        self._shape = {"rows": rows, "lanes": lanes, "planes": 8, "load_rows": load_rows}
        self.equal = Signal()
        self.moved = Signal()

    def elaborate(self, platform):
        m = Module()
        arrays = [MaskedArray(**self._shape) for _ in range(2)]
        m.submodules.portable = arrays[0]
        m.submodules.mapped = Fragment.get(arrays[1], Platform(self._family))
        like = arrays[0]

        control = random_bits(m, 32)
        # One of four times all ones: the largest sums.
        data = random_bits(m, len(like.data)) | (control[:2] == 0).replicate(len(like.data))
        mask = random_bits(m, len(like.mask)) | (control[2:4] == 0).replicate(len(like.mask))
        signs = random_bits(m, len(like.mask) + 64)[64:]
        signs = Mux(control[4:6] == 0, Mux(control[6], ~0, 0), signs)
        for array in arrays:
            m.d.comb += [
                array.data.eq(data),
                array.mask.eq(mask),
                array.negative.eq(mask & signs),
                array.load.eq(control[7]),
                array.group.eq(control[8:16]),
                array.swap.eq(control[16:19] == 0),
            ]
        m.d.comb += self.equal.eq(arrays[0].partial == arrays[1].partial)
        m.d.sync += self.moved.eq(self.moved | (arrays[1].partial != 0))
        return m


def agree(pair: ArrayPair | ChannelPair, family: str, folder: Path, *, cycles: int) -> bool:
    """Simulate for a number of cycles, vendor cells by their vendor's models."""
    top = Module()
    top.domains.sync = domain = ClockDomain("sync", reset_less=True)
    top.submodules.pair = pair
    ports = [domain.clk, pair.equal, pair.moved]
    (folder / "pair.il").write_text(rtlil.convert(top, name="pair", ports=ports), encoding="utf-8")
    (folder / "main.cpp").write_text(_MAIN, encoding="utf-8")
    run_yosys(
        f"read_rtlil pair.il; read_verilog -nooverwrite {MODELS[family]}; "
        "hierarchy -top pair -purge_lib; proc; opt_clean; write_verilog -noattr pair.v",
        cwd=folder,
    )
    find_verilator().run(
        ["--cc", "--exe", "--build", "-CFLAGS", "-O0", "-Wno-fatal", "-Wno-lint", "-Wno-style"]
        + ["--top-module", "pair", "--Mdir", "build", "pair.v", "main.cpp"],
        cwd=folder,
    )
    try:
        run_tool([folder / "build" / "Vpair", str(cycles)])
    except RuntimeError:
        return False
    return True
