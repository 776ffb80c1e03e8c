# SPDX-License-Identifier: Apache-2.0
"""A host's words as commands to a flash: how a board without DRAM gets its program."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from hiddenfold.hw.flash import ADDRESS_BITS, RAW
from hiddenfold.hw.lite_split import word_port

#: Offsets in the port: select, one byte, and 256 bytes of which all are the same word.
SELECT, BYTE, WORDS = 0x000, 0x004, 0x100
WRITE_ENABLE, WRITE_DISABLE, STATUS, IDENTITY = 0x06, 0x04, 0x05, 0x9F
ERASE, PROGRAM = 0x20, 0x02
_SECTOR = 4096


class FlashPort(wiring.Component):
    """Registers of raw flash commands.

    ======  ==============================================================================
    offset  content
    ======  ==============================================================================
    0x000   [0] 1 takes the flash and selects it, 0 deselects it
    0x004   a write sends bits 31:24; a read gives the last four bytes that came back
    0x100   to 0x1ff: a write sends a word, most significant byte first; a read likewise
            sends four bytes of 0 and gives what came back for them
    ======  ==============================================================================

    Only these commands reach the flash: 06, 04, 05 and 9F as a byte, 20 (erase 4 KiB) and 02
    (program) as a word with an address from ``protect`` on. So the FPGA's own configuration, which
    lies at the flash's begin, survives whatever the serial line makes of a command.

    Parameters
    ----------
    protect
        Bytes at the begin of the flash, a multiple of 4096.

    Members
    -------
    request, write, address, data, found, done
        Port for words, see :func:`hiddenfold.hw.lite_split.word_port`.
    raw_select, raw_i, raw_o, raw_done
        To a :class:`hiddenfold.hw.flash.Flash`.
    """

    def __init__(self, *, protect: int):
        if protect % _SECTOR or not 0 <= protect < 1 << ADDRESS_BITS:
            raise ValueError(
                f"protected bytes must be a multiple of {_SECTOR} below {1 << ADDRESS_BITS}, "
                f"not {protect!r}"
            )
        self._protect = protect
        super().__init__(
            {
                **{name: member.flip() for name, member in word_port().items()},
                "raw_select": Out(1),
                "raw_i": Out(stream.Signature(RAW)),
                "raw_o": In(32),
                "raw_done": In(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        sent = Signal()
        begun = Signal()  # a command has been sent
        blocked = Signal()  # and was none of those allowed
        in_words = self.address[8]
        sends = Signal()
        code = self.raw_i.payload.word[-8:]
        allowed = Signal()
        sector = self.raw_i.payload.word[_SECTOR.bit_length() - 1 : ADDRESS_BITS]
        m.d.comb += [
            sends.eq(((self.write & self.address[2]) | in_words) & self.raw_select),
            self.found.eq(self.raw_o),
            self.raw_i.payload.word.eq(self.data & self.write.replicate(32)),
            self.raw_i.payload.bits.eq(Mux(in_words, 32, 8)),
            allowed.eq(begun & ~blocked),
        ]
        with m.If(~begun):
            with m.Switch(code):
                with m.Case(WRITE_ENABLE, WRITE_DISABLE, STATUS, IDENTITY):
                    m.d.comb += allowed.eq(~in_words)
                with m.Case(ERASE, PROGRAM):
                    m.d.comb += allowed.eq(in_words & (sector >= self._protect // _SECTOR))
        with m.If(self.request):
            with m.If(sends & allowed):
                m.d.comb += [self.raw_i.valid.eq(~sent), self.done.eq(sent & self.raw_done)]
                with m.If(self.raw_i.ready):
                    m.d.sync += sent.eq(1)
            with m.Else():
                m.d.comb += self.done.eq(1)
                with m.If(sends):
                    m.d.sync += blocked.eq(1)
                with m.Elif(self.write & ~in_words & ~self.address[2]):
                    m.d.sync += [self.raw_select.eq(self.data[0]), begun.eq(0), blocked.eq(0)]
        with m.If(self.done):
            m.d.sync += sent.eq(0)
            with m.If(sends):
                m.d.sync += begun.eq(1)
        return m
