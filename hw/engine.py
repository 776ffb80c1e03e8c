# SPDX-License-Identifier: Apache-2.0
"""Everything of the accelerator that a run resets."""

from functools import reduce
from operator import or_

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out, connect
from amaranth.utils import bits_for, exact_log2

from hiddenfold.hw import isa
from hiddenfold.hw.actmem import READ_LATENCY, ActivationMemory
from hiddenfold.hw.axi import axi4_ports
from hiddenfold.hw.axi_merge import WriteMerger, connect_master
from hiddenfold.hw.axi_read import ReadChannel
from hiddenfold.hw.axi_write import WriteChannel
from hiddenfold.hw.conv import ConvEngine
from hiddenfold.hw.isa import UNIT_OPCODES, Error, Opcode
from hiddenfold.hw.pool import Pool
from hiddenfold.hw.sequencer import Sequencer
from hiddenfold.hw.store import Store
from hiddenfold.hw.transfer import Load, Save
from hiddenfold.hw.unfold import Unfold

#: FIFO depths (beats) of the read ports: instructions, affine stream, masks, image, loads. The mask
#: port's covers 40 cycles of memory latency at one beat a cycle with two bursts to spare.
READ_DEPTHS = (16, 64, 256, 64, 128)
#: Windows of the read ports: memory image, image, scratch.
READ_WINDOWS = (0, 0, 0, 1, 2)
MASK_PORT = 2


class Engine(wiring.Component):
    """All that a run resets: sequencer, units, activation memory, bus channels.

    Members
    -------
    start, program, program_size, image, image_size, output, output_size, scratch, scratch_size,
    images
        Registers of docs/spec.md section 8; stable during a run.
    flush, stop
        Send the rest of the output; begin no further bus transaction.
    idle
        No bus transaction is unfinished; with ``flush``, all output is written.
    finished, images_done, pc, error, failed
        State of the sequencer; first error code of any part, 0 while all is well; whether it is
        not 0.
    read_beat, write_beat, bus_stall, array_cycle, tile_stall, drain_stall, transfer_stall
        Events for the counters.
    m_axi_*
        AXI4 master.
    """

    def __init__(
        self,
        *,
        rows: int,
        drain_rows: int,
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
        # What is read at once of a word, by the drain and to be sent over the bus.
        part_bits = max(drain_rows * 8, bus_bits)
        self._drain_bits = drain_rows * 8
        self.memory = ActivationMemory(
            lanes=lanes,
            write_lanes=drain_rows,
            part_bits=part_bits,
            banks=act_banks,
            bank_words=act_bank_words,
        )
        # What an instruction, an affine record and the row of an image take at most.
        most = (isa.BYTES // 8, 2 + (rows << isa.BLOCK_BITS), 1 << isa.MAP_BITS - 1)
        self.reader = ReadChannel(
            ports=len(READ_DEPTHS),
            data_bits=bus_bits,
            # An instruction that comes in words of 64 bits is taken as it comes.
            depths=(0 if bus_bits == 64 else READ_DEPTHS[0], *READ_DEPTHS[1:]),
            count_bits=(bits_for(most[0]), bits_for(most[1]), 24, bits_for(most[2]), 24),
            windows=READ_WINDOWS,
        )
        self.writer = WriteChannel(data_bits=bus_bits)
        self.saver = WriteChannel(data_bits=bus_bits, max_burst=32)
        self.merger = WriteMerger(data_bits=bus_bits)
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
                "lanes": lanes,
                "bus_bits": bus_bits,
            },
        )
        self.conv = ConvEngine(
            rows=rows,
            drain_rows=drain_rows,
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
        # Where a pixel's rows are requantized part by part, others write parts of a word, too.
        whole = drain_rows == rows
        pool_lanes = lanes if whole else drain_rows
        self.pool = Pool(lanes=lanes, part_lanes=pool_lanes, act_addr_bits=address_bits)
        shape = {"lanes": lanes, "bus_bits": bus_bits, "act_addr_bits": address_bits}
        self.load = Load(**shape, part_bits=lanes * 8 if whole else part_bits)
        self.store = Store(**shape, part_bits=part_bits)
        self.save = Save(**shape, part_bits=part_bits)
        super().__init__(
            {
                "start": In(1),
                "program": In(32),
                "program_size": In(32),
                "image": In(32),
                "image_size": In(32),
                "output": In(32),
                "output_size": In(32),
                "scratch": In(32),
                "scratch_size": In(32),
                "images": In(16),
                "flush": In(1),
                "stop": In(1),
                "idle": Out(1),
                "finished": Out(1),
                "images_done": Out(16),
                "pc": Out(32),
                "error": Out(Error),
                "failed": Out(1),
                "read_beat": Out(1),
                "write_beat": Out(1),
                "bus_stall": Out(1),
                "array_cycle": Out(1),
                "tile_stall": Out(1),
                "drain_stall": Out(1),
                "transfer_stall": Out(1),
                **self._m_axi,
            }
        )

    def elaborate(self, platform):
        m = Module()
        memory, reader, writer = self.memory, self.reader, self.writer
        sequencer, conv, unfold = self.sequencer, self.conv, self.unfold
        pool, store = self.pool, self.store
        load, save, saver, merger = self.load, self.save, self.saver, self.merger
        m.submodules.memory = memory
        m.submodules.reader = reader
        m.submodules.writer = writer
        m.submodules.sequencer = sequencer
        m.submodules.conv = conv
        m.submodules.unfold = unfold
        m.submodules.pool = pool
        m.submodules.store = store
        m.submodules.load = load
        m.submodules.save = save
        m.submodules.saver = saver
        m.submodules.merger = merger

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
            conv.upcoming.eq(sequencer.upcoming),
            conv.upcoming_valid.eq(sequencer.upcoming_valid),
            conv.program.eq(self.program),
            conv.affine_address.eq(sequencer.affine_address),
            unfold.address.eq(sequencer.image_address + instruction.offset),
            self.finished.eq(sequencer.finished),
            self.images_done.eq(sequencer.images_done),
            # Masks that are read ahead belong to the next instruction.
            self.pc.eq(
                Mux(
                    conv.ahead & reader.error_ports[MASK_PORT],
                    sequencer.upcoming_pc,
                    sequencer.pc,
                )
            ),
        ]
        for bit, unit in enumerate(units):
            m.d.comb += unit.start.eq(sequencer.unit_start[bit])
        for unit in (unfold, pool, store):
            for name in unit.signature.members:
                if name in isa.FIELDS:
                    m.d.comb += getattr(unit, name).eq(getattr(instruction, name))

        # Transfers.
        m.d.comb += [
            sequencer.scratch_size.eq(self.scratch_size),
            sequencer.load_ready.eq(load.i.ready),
            sequencer.loads.eq(load.unfinished),
            sequencer.save_ready.eq(save.i.ready),
            sequencer.saves.eq(save.unfinished),
            load.i.valid.eq(sequencer.load_valid),
            load.i.p.word.eq(instruction.dst),
            save.i.valid.eq(sequencer.save_valid),
            save.i.p.word.eq(instruction.src),
            saver.start.eq(save.start),
            saver.address.eq(save.address),
            saver.flush.eq(save.flush),
            saver.stop.eq(self.stop),
            save.idle.eq(saver.idle),
            save.room.eq(saver.room),
            saver.i.valid.eq(save.o_valid),
            saver.i.payload.eq(save.o_data),
        ]
        for transfer in (load, save):
            m.d.comb += [
                transfer.i.p.words.eq(instruction.count),
                transfer.i.p.address.eq(self.scratch + instruction.offset),
            ]

        # Activation memory: one unit works at a time. Transfers use what the units leave.
        works = {opcode: Signal(name=f"works_{opcode.name.lower()}") for opcode in UNIT_OPCODES}
        m.d.sync += [works[opcode].eq(instruction.opcode == opcode) for opcode in works]
        drains_in_part = exact_log2(len(memory.b_data) // self._drain_bits)
        drain_of_part = [conv.b_part[:drains_in_part]]
        for age in range(READ_LATENCY):
            drain_of_part.append(Signal(drains_in_part, name=f"drain_of_part{age}"))
            m.d.sync += drain_of_part[-1].eq(drain_of_part[-2])
        m.d.comb += [
            memory.a_en.eq(conv.a_en | pool.act_r_en),
            memory.a_addr.eq(Mux(works[Opcode.CONV], conv.a_addr, pool.act_r_addr)),
            conv.a_data.eq(memory.a_data),
            pool.act_r_data.eq(memory.a_data),
            memory.b_en.eq(conv.b_en | store.r_en | save.r_en),
            memory.b_addr.eq(
                Mux(conv.b_en, conv.b_addr, Mux(store.r_en, store.r_addr, save.r_addr))
            ),
            memory.b_part.eq(
                Mux(
                    conv.b_en,
                    conv.b_part >> drains_in_part,
                    Mux(store.r_en, store.r_part, save.r_part),
                )
            ),
            # As memory.b_ready, without the units that are at rest.
            conv.b_ready.eq(
                ~(conv.a_en & (memory.bank_of(conv.a_addr) == memory.bank_of(conv.b_addr)))
            ),
            store.r_ready.eq(1),  # nothing else reads
            save.r_ready.eq(memory.b_ready & ~(conv.b_en | store.r_en)),
            conv.b_data.eq(memory.b_data.word_select(drain_of_part[-1], self._drain_bits)),
            store.r_data.eq(memory.b_data),
            save.r_data.eq(memory.b_data),
        ]
        # Writers are 0 while they do not write, which saves a multiplexer as wide as a word. A word
        # of a LOAD waits for a cycle in which no unit writes.
        load_en = Signal(len(memory.w_data) // len(load.w_data))
        load_data = Signal.like(load.w_data)
        m.d.comb += load.w_ready.eq(~(conv.w_en.any() | unfold.act_w_en | pool.act_w_en.any()))
        with m.If(load.w_en & load.w_ready):
            m.d.comb += [load_en.eq(1 << load.w_part), load_data.eq(load.w_data)]
        # All but IMAGE write one part, which goes to every place in the word. Tools would make the
        # OR anew for each of them.
        part_writers = (conv.w_data, pool.act_w_data, load_data)
        part = Signal(max(map(len, part_writers)), attrs={"keep": 1})
        m.d.comb += part.eq(
            reduce(or_, (data.replicate(len(part) // len(data)) for data in part_writers))
        )

        def segments(parts) -> Cat:
            """Return the enables of the memory's segments when some ``parts`` are written."""
            return Cat(part.replicate(len(memory.w_en) // len(parts)) for part in parts)

        # The memory lies all over the device.
        w_addr = Signal.like(memory.w_addr, reset_less=True)
        w_data = Signal.like(memory.w_data, reset_less=True)
        m.d.comb += [memory.w_addr.eq(w_addr), memory.w_data.eq(w_data)]
        m.d.sync += [
            memory.w_en.eq(
                conv.w_en | segments(pool.act_w_en) | segments(unfold.act_w_en) | segments(load_en)
            ),
            w_data.eq(unfold.act_w_data | part.replicate(len(memory.w_data) // len(part))),
            w_addr.eq(conv.w_addr),
        ]
        for enable, address in (
            (unfold.act_w_en, unfold.act_w_addr),
            (pool.act_w_en.any(), pool.act_w_addr),
            (load_en.any(), load.w_addr),
        ):
            with m.If(enable):
                m.d.sync += w_addr.eq(address)

        # Bus.
        def end_of(name: str) -> Signal:
            """Return the end of a window, which is stable long before it is needed."""
            end = Signal(33, name=f"{name}_end", reset_less=True)
            m.d.sync += end.eq(getattr(self, name) + getattr(self, f"{name}_size"))
            return end

        scratch_end = end_of("scratch")
        windows = (
            (self.program, end_of("program")),
            (self.image, end_of("image")),
            (self.scratch, scratch_end),
        )
        for number, (base, limit) in enumerate(windows):
            m.d.comb += [
                getattr(reader, f"base{number}").eq(base),
                getattr(reader, f"limit{number}").eq(limit),
            ]
        for port, (cmd, data) in enumerate(
            (
                (sequencer.cmd, sequencer.data),
                (conv.affine_cmd, conv.affine_data),
                (conv.mask_cmd, conv.mask_data),
                (unfold.cmd, unfold.data),
                (load.cmd, load.data),
            )
        ):
            connect(m, cmd, getattr(reader, f"cmd{port}"))
            connect(m, getattr(reader, f"data{port}"), data)
        m.d.comb += [
            writer.start.eq(self.start),
            writer.address.eq(self.output),
            writer.limit.eq(end_of("output")),
            saver.limit.eq(scratch_end),
            writer.flush.eq(self.flush),
            writer.stop.eq(self.stop),
            reader.stop.eq(self.stop),
            self.idle.eq(reader.idle & writer.idle & saver.idle),
            writer.i.valid.eq(conv.o.valid | store.o_valid),
            writer.i.payload.eq(Mux(conv.o.valid, conv.o.payload, store.o_data)),
            conv.o.ready.eq(writer.i.ready),
            store.room.eq(writer.room),
        ]
        connect_master(m, writer, merger, 0)
        connect_master(m, saver, merger, 1)
        for name in self._m_axi:
            channel = reader if name.startswith(("m_axi_ar", "m_axi_r")) else merger
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
            (store.r_en, store.r_addr),
        ):
            at_end = Signal()
            with m.If(sequencer.unit_start.any()):
                m.d.sync += at_end.eq(0)
            with m.Elif(enable.any()):
                m.d.sync += at_end.eq(address.all())
                with m.If(at_end & ~address.all()):
                    m.d.sync += wrapped.eq(1)

        write_window = writer.error_window | saver.error_window
        faults = (
            reader.error_bus,
            writer.error_bus,
            saver.error_bus,
            sequencer.failed,
            conv.mask_error,
            conv.affine_error,
            reader.error_window,
            write_window,
            conv.overflow,
            wrapped,
        )
        m.d.comb += self.failed.eq(Cat(*faults).any())
        # Errors, the first in this order if several come in one cycle.
        with m.If(reader.error_bus):
            m.d.comb += self.error.eq(Error.BUS_READ)
        with m.Elif(writer.error_bus | saver.error_bus):
            m.d.comb += self.error.eq(Error.BUS_WRITE)
        with m.Elif(sequencer.failed):
            m.d.comb += self.error.eq(sequencer.error)
        with m.Elif(conv.mask_error):
            m.d.comb += self.error.eq(Error.MASK_SIGNATURE)
        with m.Elif(conv.affine_error):
            m.d.comb += self.error.eq(Error.AFFINE_SIGNATURE)
        with m.Elif(reader.error_window | write_window | conv.overflow | wrapped):
            m.d.comb += self.error.eq(Error.WINDOW)

        m.d.comb += [
            self.read_beat.eq(reader.beat),
            self.write_beat.eq(writer.beat | saver.beat),
            self.bus_stall.eq(reader.waiting),
            self.array_cycle.eq(conv.array_cycle),
            self.tile_stall.eq(conv.tile_stall),
            self.drain_stall.eq(conv.drain_stall),
            self.transfer_stall.eq(sequencer.transfer_stall),
        ]
        return m
