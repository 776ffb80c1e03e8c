# SPDX-License-Identifier: Apache-2.0
"""Everything of the accelerator that a run resets."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out, connect
from amaranth.utils import exact_log2

from hiddenfold.hw import isa
from hiddenfold.hw.actmem import ActivationMemory
from hiddenfold.hw.axi import axi4_ports
from hiddenfold.hw.axi_read import ReadChannel
from hiddenfold.hw.axi_write import WriteChannel
from hiddenfold.hw.conv import ConvEngine
from hiddenfold.hw.isa import Error
from hiddenfold.hw.pool import Pool
from hiddenfold.hw.sequencer import Sequencer
from hiddenfold.hw.store import Store
from hiddenfold.hw.unfold import Unfold

#: FIFO depths (beats) of the read ports: instructions, affine stream, masks, image. The mask
#: port's covers 40 cycles of memory latency at one beat a cycle with two bursts to spare.
READ_DEPTHS = (16, 64, 256, 64)


class Engine(wiring.Component):
    """All that a run resets: sequencer, units, activation memory, bus channels.

    Members
    -------
    start, program, program_size, image, image_size, output, output_size, images
        Registers of docs/spec.md section 8; stable during a run.
    flush, stop
        Send the rest of the output; begin no further bus transaction.
    idle
        No bus transaction is unfinished; with ``flush``, all output is written.
    finished, images_done, pc, error
        State of the sequencer; first error code of any part, 0 while all is well.
    read_beat, write_beat, bus_stall, array_cycle, tile_stall, drain_stall
        Events for the counters.
    m_axi_*
        AXI4 master.
    """

    def __init__(
        self,
        *,
        rows: int,
        lanes: int,
        planes: int,
        act_banks: int,
        act_bank_words: int,
        psum_depth: int,
        acc_bits: int,
        bus_bits: int,
        image_width: int,
        stem_kernel: int,
        load_rows: int,
        mask_cache: int,
        target_id: int,
    ):
        self._bus_bits = bus_bits
        self._m_axi = axi4_ports("m_axi", data_bits=bus_bits)
        address_bits = exact_log2(act_banks * act_bank_words)
        self.memory = ActivationMemory(
            rows=rows, lanes=lanes, banks=act_banks, bank_words=act_bank_words
        )
        self.reader = ReadChannel(ports=len(READ_DEPTHS), data_bits=bus_bits, depths=READ_DEPTHS)
        self.writer = WriteChannel(data_bits=bus_bits)
        self.sequencer = Sequencer(
            target_id=target_id,
            rows=rows,
            bus_bits=bus_bits,
            check={
                "planes": planes,
                "depth": psum_depth,
                "act_words": act_banks * act_bank_words,
                "image_width": image_width,
                "stem_kernel": stem_kernel,
                "mask_cache": mask_cache,
            },
        )
        self.conv = ConvEngine(
            rows=rows,
            lanes=lanes,
            planes=planes,
            depth=psum_depth,
            acc_bits=acc_bits,
            bus_bits=bus_bits,
            address_bits=address_bits,
            load_rows=load_rows,
            mask_cache=mask_cache,
        )
        self.unfold = Unfold(
            lanes=lanes,
            bus_bits=bus_bits,
            image_width=image_width,
            stem_kernel=stem_kernel,
            act_addr_bits=address_bits,
        )
        self.pool = Pool(lanes=lanes, act_addr_bits=address_bits)
        self.store = Store(lanes=lanes, bus_bits=bus_bits, act_addr_bits=address_bits)
        super().__init__(
            {
                "start": In(1),
                "program": In(32),
                "program_size": In(32),
                "image": In(32),
                "image_size": In(32),
                "output": In(32),
                "output_size": In(32),
                "images": In(16),
                "flush": In(1),
                "stop": In(1),
                "idle": Out(1),
                "finished": Out(1),
                "images_done": Out(16),
                "pc": Out(32),
                "error": Out(Error),
                "read_beat": Out(1),
                "write_beat": Out(1),
                "bus_stall": Out(1),
                "array_cycle": Out(1),
                "tile_stall": Out(1),
                "drain_stall": Out(1),
                **self._m_axi,
            }
        )

    def elaborate(self, platform):
        m = Module()
        memory, reader, writer = self.memory, self.reader, self.writer
        sequencer, conv, unfold = self.sequencer, self.conv, self.unfold
        pool, store = self.pool, self.store
        m.submodules.memory = memory
        m.submodules.reader = reader
        m.submodules.writer = writer
        m.submodules.sequencer = sequencer
        m.submodules.conv = conv
        m.submodules.unfold = unfold
        m.submodules.pool = pool
        m.submodules.store = store

        # Sequencer and units.
        units = (conv, unfold, pool, store)  # in the order of UNIT_OPCODES
        instruction = sequencer.instruction
        m.d.comb += [
            sequencer.start.eq(self.start),
            sequencer.images.eq(self.images),
            sequencer.program.eq(self.program),
            sequencer.image.eq(self.image),
            sequencer.next_image.eq(unfold.next_address),
            sequencer.unit_done.eq(Cat(unit.done for unit in units)),
            conv.instruction.eq(instruction),
            conv.repeated.eq(sequencer.repeated),
            conv.program.eq(self.program),
            conv.affine_address.eq(sequencer.affine_address),
            unfold.address.eq(sequencer.image_address + instruction.offset),
            self.finished.eq(sequencer.finished),
            self.images_done.eq(sequencer.images_done),
            self.pc.eq(sequencer.pc),
        ]
        for bit, unit in enumerate(units):
            m.d.comb += unit.start.eq(sequencer.unit_start[bit])
        for unit in (unfold, pool, store):
            for name in unit.signature.members:
                if name in isa.FIELDS:
                    m.d.comb += getattr(unit, name).eq(getattr(instruction, name))

        # Activation memory: one unit works at a time; only CONV reads its second port.
        m.d.comb += [
            memory.a_en.eq(conv.a_en | pool.act_r_en | store.act_r_en),
            memory.a_addr.eq(
                Mux(conv.a_en, conv.a_addr, Mux(pool.act_r_en, pool.act_r_addr, store.act_r_addr))
            ),
            conv.a_data.eq(memory.a_data),
            pool.act_r_data.eq(memory.a_data),
            store.act_r_data.eq(memory.a_data),
            memory.b_en.eq(conv.b_en),
            memory.b_addr.eq(conv.b_addr),
            conv.b_ready.eq(memory.b_ready),
            conv.b_data.eq(memory.b_data),
            memory.w_en.eq(conv.w_en),
            memory.w_addr.eq(conv.w_addr),
            memory.w_data.eq(conv.w_data),
        ]
        for unit in (unfold, pool):
            with m.If(unit.act_w_en):
                m.d.comb += [
                    memory.w_en.eq(-1),
                    memory.w_addr.eq(unit.act_w_addr),
                    memory.w_data.eq(unit.act_w_data),
                ]

        # Bus.
        program_end = self.program + self.program_size
        image_end = self.image + self.image_size
        for port, (cmd, data) in enumerate(
            (
                (sequencer.cmd, sequencer.data),
                (conv.affine_cmd, conv.affine_data),
                (conv.mask_cmd, conv.mask_data),
                (unfold.cmd, unfold.data),
            )
        ):
            connect(m, cmd, getattr(reader, f"cmd{port}"))
            connect(m, getattr(reader, f"data{port}"), data)
            of_image = cmd is unfold.cmd
            m.d.comb += [
                getattr(reader, f"base{port}").eq(self.image if of_image else self.program),
                getattr(reader, f"limit{port}").eq(image_end if of_image else program_end),
            ]
        m.d.comb += [
            writer.start.eq(self.start),
            writer.address.eq(self.output),
            writer.limit.eq(self.output + self.output_size),
            writer.flush.eq(self.flush),
            writer.stop.eq(self.stop),
            reader.stop.eq(self.stop),
            self.idle.eq(reader.idle & writer.idle),
            writer.i.valid.eq(conv.o.valid | store.o.valid),
            writer.i.payload.eq(Mux(conv.o.valid, conv.o.payload, store.o.payload)),
            conv.o.ready.eq(writer.i.ready),
            store.o.ready.eq(writer.i.ready),
        ]
        for name in self._m_axi:
            channel = reader if name.startswith(("m_axi_ar", "m_axi_r")) else writer
            outer, inner = getattr(self, name), getattr(channel, name)
            out = self.signature.members[name].flow == Out
            m.d.comb += outer.eq(inner) if out else inner.eq(outer)

        # IMAGE, POOL and STORE walk upwards through the memory: what follows its last word, or lies
        # below the first of a tensor, has wrapped around. CONV finds that by itself.
        wrapped = Signal()
        with m.If(pool.act_r_en & (pool.act_r_addr < pool.src)):
            m.d.sync += wrapped.eq(1)
        for enable, address in (
            (unfold.act_w_en, unfold.act_w_addr),
            (pool.act_w_en, pool.act_w_addr),
            (store.act_r_en, store.act_r_addr),
        ):
            at_end = Signal()
            with m.If(sequencer.unit_start.any()):
                m.d.sync += at_end.eq(0)
            with m.Elif(enable.any()):
                m.d.sync += at_end.eq(address.all())
                with m.If(at_end & ~address.all()):
                    m.d.sync += wrapped.eq(1)

        # Errors, the first in this order if several come in one cycle.
        with m.If(reader.error_bus):
            m.d.comb += self.error.eq(Error.BUS_READ)
        with m.Elif(writer.error_bus):
            m.d.comb += self.error.eq(Error.BUS_WRITE)
        with m.Elif(sequencer.error != Error.NONE):
            m.d.comb += self.error.eq(sequencer.error)
        with m.Elif(conv.mask_error):
            m.d.comb += self.error.eq(Error.MASK_SIGNATURE)
        with m.Elif(conv.affine_error):
            m.d.comb += self.error.eq(Error.AFFINE_SIGNATURE)
        with m.Elif(reader.error_window | writer.error_window | conv.overflow | wrapped):
            m.d.comb += self.error.eq(Error.WINDOW)

        m.d.comb += [
            self.read_beat.eq(reader.beat),
            self.write_beat.eq(writer.beat),
            self.bus_stall.eq(reader.waiting),
            self.array_cycle.eq(conv.array_cycle),
            self.tile_stall.eq(conv.tile_stall),
            self.drain_stall.eq(conv.drain_stall),
        ]
        return m
