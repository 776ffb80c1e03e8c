# SPDX-License-Identifier: Apache-2.0
"""The accelerator: what is shipped as Verilog module ``hiddenfold``."""

from amaranth.hdl import ClockDomain, ClockSignal, DomainRenamer, Module, ResetSignal, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hiddenfold.hw.axi import axi4_lite_ports, axi4_ports
from hiddenfold.hw.engine import Engine
from hiddenfold.hw.registers import Registers
from hiddenfold.hw.run import RunControl


class Accelerator(wiring.Component):
    """The whole accelerator: registers on AXI4-Lite, memory on AXI4.

    Parameters
    ----------
    rows, lanes, planes, act_banks, act_bank_words, psum_depth, acc_bits, bus_bits, image_width,
    stem_kernel, load_rows, mask_cache, drain_rows, target_id
        Docs/spec.md section 6; checked by ``hiddenfold.gen.target``.

    Members
    -------
    aclk, aresetn
        Clock of all ports, rising edge; synchronous reset, active low.
    s_axi_*
        AXI4-Lite slave, 12 address bits: the registers.
    m_axi_*
        AXI4 master, 32 address bits.
    irq
        High while IRQ_ENABLE and (DONE or ERROR).
    """

    def __init__(
        self, *, target_id: int, rows: int, lanes: int, planes: int, bus_bits: int, **sizes: int
    ):
        shape = {
            "target_id": target_id,
            "rows": rows,
            "lanes": lanes,
            "planes": planes,
            "bus_bits": bus_bits,
        }
        self._m_axi = axi4_ports("m_axi", data_bits=bus_bits)
        self._s_axi = axi4_lite_ports("s_axi")
        self.registers = Registers(**shape)
        self.engine = Engine(**shape, **sizes)
        self.control = RunControl(bus_bits=bus_bits)
        super().__init__(
            {"aclk": In(1), "aresetn": In(1), "irq": Out(1), **self._s_axi, **self._m_axi}
        )

    def elaborate(self, platform):
        m = Module()
        m.domains.sync = ClockDomain()
        registers, engine, control = self.registers, self.engine, self.control
        m.submodules.registers = registers
        m.submodules.control = control
        # The engine is reset while it rests, from a register: the net goes across the device.
        m.domains.engine = ClockDomain()
        m.submodules.engine = DomainRenamer("engine")(engine)
        rest = Signal(init=1)
        m.d.sync += rest.eq(control.rest)
        m.d.comb += [
            ClockSignal().eq(self.aclk),
            ResetSignal().eq(~self.aresetn),
            ClockSignal("engine").eq(self.aclk),
            ResetSignal("engine").eq(rest),
            self.irq.eq(registers.irq),
            registers.busy.eq(control.busy),
            registers.done.eq(control.done),
            registers.fail.eq(control.fail),
            registers.error.eq(control.code),
            registers.error_pc.eq(control.fail_pc),
            registers.images_done.eq(control.images_done),
            control.images.eq(engine.images_done),
            control.start.eq(registers.start),
            control.abort.eq(registers.abort),
            control.watchdog.eq(registers.watchdog),
            control.finished.eq(engine.finished),
            control.idle.eq(engine.idle),
            control.error.eq(engine.error),
            control.failed.eq(engine.failed),
            control.pc.eq(engine.pc),
            engine.start.eq(control.engine_start),
            engine.flush.eq(control.flush),
            engine.stop.eq(control.stop),
        ]
        for name in (
            "program",
            "program_size",
            "image",
            "image_size",
            "output",
            "output_size",
            "scratch",
            "scratch_size",
            "images",
        ):
            m.d.comb += getattr(engine, name).eq(getattr(registers, name))
        for name in (
            "read_beat",
            "write_beat",
            "array_cycle",
            "tile_stall",
            "drain_stall",
            "bus_stall",
            "transfer_stall",
        ):
            m.d.comb += getattr(control, name).eq(getattr(engine, name))
        m.d.comb += [
            control.counter.eq(registers.counter),
            control.counter_read.eq(registers.counter_read),
            registers.counter_value.eq(control.counter_value),
        ]
        for part, members in ((registers, self._s_axi), (engine, self._m_axi)):
            for name, member in members.items():
                outer, inner = getattr(self, name), getattr(part, name)
                m.d.comb += outer.eq(inner) if member.flow == Out else inner.eq(outer)
        return m
