# SPDX-License-Identifier: Apache-2.0
"""UART to AXI4-Lite: lets a host read and write words of a bus over a serial line."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hiddenfold.hw.axi import axi4_lite_ports
from hiddenfold.hw.uart import UartReceiver, UartTransmitter

WRITE, READ = 0x01, 0x02
#: Bytes of an address and of a word.
_WORD_BYTES = 4


class UartBridge(wiring.Component):
    """Bus master of a host at the other end of a serial line.

    The protocol is that of LiteX's uartbone: a byte :data:`WRITE` or :data:`READ`, a byte with the
    number of words (0 stands for 256), the word address in four bytes, and for a write the words; a
    read is answered by the words. All numbers have their most significant byte first. Other
    commands are taken with their length and address, and dropped.

    The host must not send before a read is answered, and the bus must answer within the time of a
    byte, else bytes are lost. Responses of the bus are not looked at.

    Parameters
    ----------
    bit_cycles
        Clock cycles per bit, at least 4.
    timeout_cycles
        A command that stays incomplete for so long after a byte is dropped.

    Members
    -------
    rx, tx
        Serial line.
    m_axi_*
        AXI4-Lite master, 32 address bits; one access at a time.
    """

    def __init__(self, *, bit_cycles: int, timeout_cycles: int):
        if timeout_cycles < 20 * bit_cycles:
            raise ValueError(
                f"time-out must be at least two bytes = {20 * bit_cycles} cycles, "
                f"not {timeout_cycles!r}"
            )
        self._timeout_cycles = timeout_cycles
        self._receiver = UartReceiver(bit_cycles=bit_cycles)
        self._transmitter = UartTransmitter(bit_cycles=bit_cycles)
        slave = axi4_lite_ports("m_axi", addr_bits=32)
        super().__init__(
            {
                "rx": In(1, init=1),
                "tx": Out(1, init=1),
                **{name: member.flip() for name, member in slave.items()},
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.receiver = receiver = self._receiver
        m.submodules.transmitter = transmitter = self._transmitter
        command = Signal(8)
        left = Signal(8)
        address = Signal(30)
        word = Signal(32)
        place = Signal(range(_WORD_BYTES))
        address_done, data_done = Signal(), Signal()
        idle_time = Signal(range(self._timeout_cycles + 1))
        got = Signal()
        last_byte = Signal()
        m.d.comb += [
            receiver.rx.eq(self.rx),
            self.tx.eq(transmitter.tx),
            self.m_axi_awaddr.eq(address << 2),
            self.m_axi_araddr.eq(address << 2),
            self.m_axi_wdata.eq(word),
            self.m_axi_wstrb.eq(0b1111),
            transmitter.i.payload.eq(word[-8:]),
            got.eq(receiver.o.valid & receiver.o.ready),
            last_byte.eq(place == _WORD_BYTES - 1),
        ]
        m.d.sync += idle_time.eq(Mux(got, 0, idle_time + 1))

        def receive():
            """Take bytes; forget the command if they do not come."""
            m.d.comb += receiver.o.ready.eq(1)
            with m.If(idle_time == self._timeout_cycles):
                m.next = "COMMAND"

        def next_word(more: str):
            """After a word: the next one or the end of the command."""
            m.d.sync += [address.eq(address + 1), left.eq(left - 1), place.eq(0)]
            m.next = more
            with m.If(left == 1):
                m.next = "COMMAND"

        with m.FSM():
            with m.State("COMMAND"):
                m.d.comb += receiver.o.ready.eq(1)
                m.d.sync += place.eq(0)
                with m.If(got):
                    m.d.sync += command.eq(receiver.o.payload)
                    m.next = "LENGTH"
            with m.State("LENGTH"):
                receive()
                with m.If(got):
                    m.d.sync += left.eq(receiver.o.payload)
                    m.next = "ADDRESS"
            with m.State("ADDRESS"):
                receive()
                with m.If(got):
                    m.d.sync += [address.eq(Cat(receiver.o.payload, address)), place.eq(place + 1)]
                    with m.If(last_byte):
                        with m.If(command == WRITE):
                            m.next = "WORD"
                        with m.Elif(command == READ):
                            m.next = "READ"
                        with m.Else():
                            m.next = "COMMAND"
            with m.State("WORD"):
                receive()
                with m.If(got):
                    m.d.sync += [word.eq(Cat(receiver.o.payload, word)), place.eq(place + 1)]
                    with m.If(last_byte):
                        m.d.sync += [address_done.eq(0), data_done.eq(0)]
                        m.next = "WRITE"
            with m.State("WRITE"):
                m.d.comb += [
                    self.m_axi_awvalid.eq(~address_done),
                    self.m_axi_wvalid.eq(~data_done),
                    self.m_axi_bready.eq(1),
                ]
                with m.If(self.m_axi_awready):
                    m.d.sync += address_done.eq(1)
                with m.If(self.m_axi_wready):
                    m.d.sync += data_done.eq(1)
                with m.If(self.m_axi_bvalid):
                    next_word("WORD")
            with m.State("READ"):
                m.d.comb += self.m_axi_arvalid.eq(1)
                with m.If(self.m_axi_arready):
                    m.next = "ANSWER"
            with m.State("ANSWER"):
                m.d.comb += self.m_axi_rready.eq(1)
                with m.If(self.m_axi_rvalid):
                    m.d.sync += word.eq(self.m_axi_rdata)
                    m.next = "SEND"
            with m.State("SEND"):
                m.d.comb += transmitter.i.valid.eq(1)
                with m.If(transmitter.i.ready):
                    m.d.sync += [word.eq(word << 8), place.eq(place + 1)]
                    with m.If(last_byte):
                        next_word("READ")
        return m
