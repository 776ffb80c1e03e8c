# SPDX-License-Identifier: Apache-2.0
"""Control and status registers behind AXI4-Lite (docs/spec.md section 8)."""

from functools import reduce
from operator import or_

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hiddenfold.hw import regmap
from hiddenfold.hw.axi import axi4_lite_ports

_WRITABLE = {
    "program": 32,
    "program_size": 32,
    "image": 32,
    "image_size": 32,
    "output": 32,
    "output_size": 32,
    "images": 16,
    "watchdog": 32,
    "scratch": 32,
    "scratch_size": 32,
}
#: Word offsets of the low words of the counters.
_COUNTERS = [register.offset // 4 for register in regmap.REGISTERS.values() if register.wide]


class Registers(wiring.Component):
    """AXI4-Lite slave with the register map of :mod:`hiddenfold.hw.regmap`.

    One write and one read may be under way at a time, independently of each other; address and
    data of a write may come in any order. Responses are always OKAY. The lowest two address bits
    are ignored. Configuration registers are 0 after reset. Reading the low word of a counter keeps
    its high word for the next read of that high word, so that the pair belongs together.

    Parameters
    ----------
    target_id
        Value of TARGET.
    rows, lanes, planes, bus_bits
        Value of SHAPE.

    Members
    -------
    s_axi_*
        AXI4-Lite slave, see :func:`hiddenfold.hw.axi.axi4_lite_ports`.
    start, abort
        One-cycle pulses, a cycle after the write. ``start`` never comes while ``busy`` or in the
        cycle after a ``start``, ``abort`` only while ``busy``.
    program .. scratch_size
        Configuration, stable while ``busy``.
    irq
        Interrupt line, level.
    busy
        A run is under way; from the cycle after ``start``.
    done, fail
        Pulses at the end of a run, good or bad; ``error`` and ``error_pc`` belong to ``fail``.
    images_done
        What the register of the same name shows.
    counter, counter_read, counter_value
        ``counter_value`` is the value of the wide register number ``counter``, in the order of the
        map, in a cycle with ``counter_read``.
    """

    def __init__(self, *, target_id: int, rows: int, lanes: int, planes: int, bus_bits: int):
        if not 0 <= target_id < 1 << 32:
            raise ValueError(f"target identifier must be in 0..2^32-1, not {target_id!r}")
        shape = {"rows": rows, "lanes": lanes, "planes": planes, "bus bytes": bus_bits // 8}
        for name, value in shape.items():
            if not 0 < value < 256:
                raise ValueError(f"{name} must be in 1..255, not {value!r}")
        self._constants = {
            "ID": regmap.ID_VALUE,
            "VERSION": regmap.VERSION_VALUE,
            "TARGET": target_id,
            "SHAPE": sum(value << 8 * i for i, value in enumerate(shape.values())),
        }
        super().__init__(
            {
                **axi4_lite_ports("s_axi"),
                "start": Out(1),
                "abort": Out(1),
                **{name: Out(width) for name, width in _WRITABLE.items()},
                "irq": Out(1),
                "busy": In(1),
                "done": In(1),
                "fail": In(1),
                "error": In(8),
                "error_pc": In(32),
                "images_done": In(16),
                "counter": Out(range(len(_COUNTERS))),
                "counter_read": Out(1),
                "counter_value": In(64),
            }
        )

    def elaborate(self, platform):
        m = Module()
        write_index = Signal(len(self.s_axi_awaddr) - 2)
        write_data = Signal(32)
        write_strobe = Signal(4)
        write = Signal()
        read_index = Signal(len(self.s_axi_araddr) - 2)
        read_next = Signal.like(read_index)  # read_index of the next cycle
        read = Signal()
        self._write_side(m, write_index, write_data, write_strobe, write)
        self._read_side(m, read_index, read_next, read)

        irq_enable = Signal()
        status_done = Signal()
        status_error = Signal()
        error = Signal(8)
        error_pc = Signal(32)
        occupied = Signal()
        status = Signal(32)
        control = Signal(32)
        m.d.comb += [
            # The core's busy follows start by a cycle.
            occupied.eq(self.busy | self.start),
            status.eq(
                self.busy * regmap.STATUS_BUSY
                | status_done * regmap.STATUS_DONE
                | status_error * regmap.STATUS_ERROR
            ),
            control.eq(irq_enable * regmap.CONTROL_IRQ_ENABLE),
            self.irq.eq(irq_enable & (status_done | status_error)),
        ]

        def written(name: str):
            return write & (write_index == regmap.REGISTERS[name].offset // 4)

        def strobed(mask: int):
            """The bit ``mask`` is written as 1."""
            bit = mask.bit_length() - 1
            return write_strobe[bit // 8] & write_data[bit]

        m.d.sync += [self.start.eq(0), self.abort.eq(0)]
        with m.If(written("STATUS")):
            with m.If(strobed(regmap.STATUS_DONE)):
                m.d.sync += status_done.eq(0)
            with m.If(strobed(regmap.STATUS_ERROR)):
                m.d.sync += status_error.eq(0)
        with m.If(written("CONTROL")):
            enable_bit = regmap.CONTROL_IRQ_ENABLE.bit_length() - 1
            with m.If(write_strobe[enable_bit // 8]):
                m.d.sync += irq_enable.eq(write_data[enable_bit])
            with m.If(strobed(regmap.CONTROL_START) & ~occupied):
                m.d.sync += [
                    self.start.eq(1),
                    status_done.eq(0),
                    status_error.eq(0),
                    error.eq(0),
                    error_pc.eq(0),
                ]
            with m.If(strobed(regmap.CONTROL_ABORT) & occupied):
                m.d.sync += self.abort.eq(1)
        for name, width in _WRITABLE.items():
            register = getattr(self, name)
            with m.If(written(name.upper()) & ~occupied):
                for byte in range(width // 8):
                    with m.If(write_strobe[byte]):
                        m.d.sync += register.word_select(byte, 8).eq(
                            write_data.word_select(byte, 8)
                        )
        # After the writes: the end of a run that comes in the cycle of a clearing write is seen.
        with m.If(self.done):
            m.d.sync += status_done.eq(1)
        with m.If(self.fail):
            m.d.sync += [status_error.eq(1), error.eq(self.error), error_pc.eq(self.error_pc)]

        values = {
            **self._constants,
            "CONTROL": control,
            "STATUS": status,
            "ERROR": error,
            "ERROR_PC": error_pc,
            **{name.upper(): getattr(self, name) for name in _WRITABLE},
            "IMAGES_DONE": self.images_done,
        }
        self._read_mux(m, values, read_index, read_next, read)
        return m

    def _write_side(self, m, index, word, strobe, write):
        """Take address and data of a write, give ``write`` for one cycle, answer."""
        address_held = Signal()
        data_held = Signal()
        m.d.comb += [
            self.s_axi_awready.eq(~address_held),
            self.s_axi_wready.eq(~data_held),
            write.eq(address_held & data_held & ~self.s_axi_bvalid),
        ]
        with m.If(self.s_axi_awvalid & self.s_axi_awready):
            m.d.sync += [address_held.eq(1), index.eq(self.s_axi_awaddr[2:])]
        with m.If(self.s_axi_wvalid & self.s_axi_wready):
            m.d.sync += [
                data_held.eq(1),
                word.eq(self.s_axi_wdata),
                strobe.eq(self.s_axi_wstrb),
            ]
        with m.If(self.s_axi_bready):
            m.d.sync += self.s_axi_bvalid.eq(0)
        with m.If(write):
            m.d.sync += [address_held.eq(0), data_held.eq(0), self.s_axi_bvalid.eq(1)]

    def _read_side(self, m, index, index_next, read):
        """Take the address of a read, give ``read`` for one cycle, answer."""
        held = Signal()
        m.d.comb += [
            self.s_axi_arready.eq(~held & ~self.s_axi_rvalid),
            read.eq(held),
            index_next.eq(index),
        ]
        m.d.sync += index.eq(index_next)
        with m.If(self.s_axi_arvalid & self.s_axi_arready):
            m.d.comb += index_next.eq(self.s_axi_araddr[2:])
            m.d.sync += held.eq(1)
        with m.If(self.s_axi_rready):
            m.d.sync += self.s_axi_rvalid.eq(0)
        with m.If(read):
            m.d.sync += [held.eq(0), self.s_axi_rvalid.eq(1)]

    def _read_mux(self, m, values, index, index_next, read):
        """Put the register ``index`` into RDATA in the cycle of ``read``."""
        high = Signal(32)
        high_of = Signal.like(self.counter)
        high_valid = Signal()
        value = self.counter_value
        # The counters lie next to each other, the last one a multiple of all further on, so their
        # offsets tell their numbers.
        m.d.comb += self.counter.eq((index >> 1) - (_COUNTERS[0] >> 1))
        # One bit tells for each register that it is read: an OR of words that are zero but for one
        # is less deep than a multiplexer.
        word = 0
        for name, value_of in values.items():
            mine = Signal(name=f"reads_{name.lower()}")
            m.d.sync += mine.eq(index_next == regmap.REGISTERS[name].offset // 4)
            word |= Mux(mine, value_of, 0)
        low_read, high_read = Signal(), Signal()
        m.d.sync += [
            low_read.eq(reduce(or_, (index_next == low for low in _COUNTERS))),
            high_read.eq(reduce(or_, (index_next == low + 1 for low in _COUNTERS))),
        ]
        kept = high_valid & (high_of == self.counter)
        word |= Mux(low_read, value[:32], 0) | Mux(high_read, Mux(kept, high, value[32:]), 0)
        with m.If(read):
            m.d.comb += self.counter_read.eq(low_read | high_read)
            m.d.sync += self.s_axi_rdata.eq(word)
            with m.If(low_read):
                m.d.sync += [high.eq(value[32:]), high_of.eq(self.counter), high_valid.eq(1)]
            with m.If(high_read):
                m.d.sync += high_valid.eq(0)
