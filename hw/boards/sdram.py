# SPDX-License-Identifier: Apache-2.0
"""Starts an SDRAM without a processor."""

from copy import copy

from litedram import init
from litedram.phy import dfi
from litex.gen import LiteXModule
from migen import Case, If, Signal
from migen.genlib.record import DIR_M_TO_S

__all__ = ["SdramStart"]

#: Cycles after each command at least: more than a refresh or a mode register takes.
_PAUSE = 32
_PINS = ("cs", "ras", "cas", "we")


class SdramStart(LiteXModule):
    """Plays LiteDRAM's start sequence on a PHY once, then leaves it to the controller.

    What goes to the PHY is registered here: on its way to the pins it changes to a faster clock,
    and the controller is far from them.

    Parameters
    ----------
    phy
        PHY of an SDR SDRAM.
    timing
        Timing settings of the chip.

    Members
    -------
    dfi
        For the controller.
    settings
        The PHY's settings as the controller sees them, with the register.
    done
        The controller has the PHY.
    """

    def __init__(self, phy, timing):
        self.done = Signal()
        self.settings = copy(phy.settings)
        self.settings.read_latency += 1
        width = {name: size for name, size, _ in phy.dfi.phases[0].layout}
        shape = [width[name] for name in ("address", "bank", "cs_n", "wrdata")]
        self.dfi = dfi.Interface(*shape, nphases=len(phy.dfi.phases))

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

        controller, idle = [], []
        for inner, outer in zip(self.dfi.phases, phy.dfi.phases, strict=True):
            for name, _, direction in outer.layout:
                source, target = getattr(inner, name), getattr(outer, name)
                if direction == DIR_M_TO_S:
                    controller.append(target.eq(source))
                else:
                    self.comb += source.eq(target)
            idle += [outer.cke.eq(1), *(getattr(outer, f"{pin}_n").eq(1) for pin in _PINS)]
        self.sync += If(self.done, *controller).Else(*idle, If(wait == 0, Case(step, commands)))
        self.sync += (
            If(wait != 0, wait.eq(wait - 1))
            .Elif(step == len(sequence), self.done.eq(1))
            .Else(step.eq(step + 1), Case(step, pauses))
        )


def _flag(pin: str) -> str:
    return f"DFII_COMMAND_{pin.upper()}"
