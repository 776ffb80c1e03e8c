# SPDX-License-Identifier: Apache-2.0
"""Starts an SDRAM without a processor."""

from litedram import init
from litex.gen import LiteXModule
from migen import Case, If, Signal

__all__ = ["SdramStart"]

#: Cycles after each command at least: more than a refresh or a mode register takes.
_PAUSE = 32
_PINS = ("cs", "ras", "cas", "we")


class SdramStart(LiteXModule):
    """Plays LiteDRAM's start sequence on a PHY once, then leaves it to the controller.

    Parameters
    ----------
    phy
        PHY of an SDR SDRAM.
    controller
        DFI of the controller.
    timing
        Timing settings of the chip.

    Members
    -------
    done
        The controller has the PHY.
    """

    def __init__(self, phy, controller, timing):
        self.done = Signal()
        sequence, _ = init.get_sdr_phy_init_sequence(phy.settings, timing)
        step = Signal(max=len(sequence) + 1)
        wait = Signal(max=1 + max(delay for *_, delay in sequence), reset=_PAUSE)

        commands, pauses = {}, {}
        first = phy.dfi.phases[0]
        for number, (_, address, bank, name, delay) in enumerate(sequence):
            given = [
                getattr(first, f"{pin}_n").eq(_flag(pin) not in name.split("|")) for pin in _PINS
            ]
            commands[number] = [first.address.eq(address), first.bank.eq(bank), *given]
            pauses[number] = wait.eq(max(delay, _PAUSE))
        idle = [
            [phase.cke.eq(1), *(getattr(phase, f"{pin}_n").eq(1) for pin in _PINS)]
            for phase in phy.dfi.phases
        ]
        self.comb += If(self.done, controller.connect(phy.dfi)).Else(
            *idle, If(wait == 0, Case(step, commands))
        )
        self.sync += (
            If(wait != 0, wait.eq(wait - 1))
            .Elif(step == len(sequence), self.done.eq(1))
            .Else(step.eq(step + 1), Case(step, pauses))
        )


def _flag(pin: str) -> str:
    return f"DFII_COMMAND_{pin.upper()}"
