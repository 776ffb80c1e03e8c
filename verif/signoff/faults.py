# SPDX-License-Identifier: Apache-2.0
"""Kinds of faults, each with the end that docs/spec.md section 9 demands.

A kind is a function of a rig, what is known of its good run, and a random generator. It injects one
fault, runs, and raises :class:`.rig.Failure` if the end is another than the documented one. What it
returns names the end, for the statistics.
"""

from collections.abc import Callable
from random import Random

import numpy as np

from hiddenfold.hw import regmap
from hiddenfold.hw.isa import BYTES, FIELDS, Error
from hiddenfold.hw.lfsr import signature
from hiddenfold.sw.instructions import instructions
from hiddenfold.verif.signoff.layout import Layout, signed
from hiddenfold.verif.signoff.rig import Failure, Rig

_IRQ = regmap.CONTROL_IRQ_ENABLE
_START = regmap.CONTROL_START | _IRQ
_ABORT = regmap.CONTROL_ABORT | _IRQ
_GUARD = 256
_BUS_ERRORS = ("SLVERR", "DECERR")


class Known:
    """What a good run of a rig takes: ``cycles``, beats read and written; its program's layout."""

    def __init__(self, rig: Rig):
        """Run once, with the memory's timing as it is."""
        rig.fill()
        rig.expect_good()
        self.cycles = rig.read("CYCLES")
        beat = rig.case.target.bus_bits // 8
        self.beats = {
            True: rig.read("READ_BYTES") // beat,
            False: rig.read("WRITE_BYTES") // beat,
        }
        self.layout = Layout(rig.case.program)
        self.pcs = [pc for pc, _ in instructions(rig.case.program.memory)]


Kind = Callable[[Rig, Known, Random], str]


def bus_error(rig: Rig, known: Known, rng: Random) -> str:
    """SLVERR or DECERR at any beat ends the run with BUS_READ or BUS_WRITE."""
    read = rng.random() < 0.7
    rig.device.fault_beat(rng.randrange(known.beats[read]), rng.choice(_BUS_ERRORS), read=read)
    code = Error.BUS_READ if read else Error.BUS_WRITE
    rig.expect_error(code)
    return code.name


def silence(rig: Rig, known: Known, rng: Random) -> str:
    """Memory that never answers a beat: WATCHDOG, BUSY stays, registers can be read."""
    read = rng.random() < 0.7
    number = rng.randrange(known.beats[read])
    rig.device.fault_beat(number, "no answer", read=read)
    rig.start(WATCHDOG=2 * known.cycles + rng.randrange(100))
    _never_ends(rig, Error.WATCHDOG, 2 * known.cycles + 200)
    return _recover(rig, Error.WATCHDOG, late=rng.random() < 0.5)


def silence_and_abort(rig: Rig, known: Known, rng: Random) -> str:
    """ABORT while the memory does not answer: ABORTED, and BUSY stays until it does."""
    read = rng.random() < 0.7
    rig.device.fault_beat(rng.randrange(known.beats[read]), "no answer", read=read)
    rig.start()
    rig.device.advance(2 * known.cycles)
    if not rig.read("STATUS") & regmap.STATUS_BUSY:
        raise Failure("the run ended although a beat was not answered")
    rig.write("CONTROL", _ABORT)
    _never_ends(rig, Error.ABORTED, 100)
    return _recover(rig, Error.ABORTED, late=rng.random() < 0.5)


def _never_ends(rig: Rig, code: Error, limit: int) -> None:
    rig.device.advance(limit, until_interrupt=True)
    rig.device.advance(50)
    status, found = rig.read("STATUS"), rig.read("ERROR")
    if status != regmap.STATUS_BUSY | regmap.STATUS_ERROR or found != code:
        raise Failure(f"STATUS {status} and ERROR {found} with memory that does not answer")


def _recover(rig: Rig, code: Error, *, late: bool) -> str:
    """The memory answers at last, or a reset comes: both leave an accelerator that works."""
    if late:
        rig.device.clear_faults()
        rig.expect_error_end(code)
        return f"{code.name}, answered late"
    _reset(rig)
    return f"{code.name}, reset"


def _reset(rig: Rig) -> None:
    rig.device.reset()
    for name, register in regmap.REGISTERS.items():
        if register.access != "RO" or name not in ("ID", "VERSION", "TARGET", "SHAPE"):
            if (value := rig.read(name)) != 0:
                raise Failure(f"{name} is {value:#x} after a reset")
    if rig.device.interrupt:
        raise Failure("the interrupt is high after a reset")


def pause(rig: Rig, known: Known, rng: Random) -> str:
    """Memory that stands still for a while, at any time, changes nothing but the time."""
    rig.poison()
    rig.start()
    rig.device.hold(rng.randrange(1, 5000), after=rng.randrange(known.cycles))
    rig.expect_good_end()
    return "good"


def pause_and_watchdog(rig: Rig, known: Known, rng: Random) -> str:
    """Memory that stands still for too long: WATCHDOG, and an end when it goes on."""
    begin = rng.randrange(known.cycles // 2)
    rig.start(WATCHDOG=known.cycles)
    rig.device.hold(known.cycles + 3000, after=begin)
    rig.device.advance(2 * known.cycles, until_interrupt=True)
    if rig.read("ERROR") != Error.WATCHDOG:
        raise Failure(f"ERROR {rig.read('ERROR')} with memory that stands still")
    rig.device.clear_faults()
    rig.expect_error_end(Error.WATCHDOG)
    return "WATCHDOG"


def watchdog(rig: Rig, known: Known, rng: Random) -> str:
    """Whatever WATCHDOG is: the error from that many cycles on, or a run that is good."""
    limit = rng.randrange(1, known.cycles + 200)
    rig.poison()
    rig.start(WATCHDOG=limit)
    ending = rig.finish()
    cycles = rig.read("CYCLES")
    if ending.code == 0 and cycles <= limit:
        rig.compare()
        return "good"
    if ending.code != Error.WATCHDOG or cycles < limit:
        raise Failure(f"watchdog of {limit} cycles: code {ending.code} after {cycles}")
    return "WATCHDOG"


def _damage(rig: Rig, offset: int, rng: Random) -> None:
    """Change a 64-bit word of the memory image: one bit, or any of them."""
    flip = 1 << rng.randrange(64) if rng.random() < 0.5 else rng.randrange(1, 1 << 64)
    word = int.from_bytes(rig.case.program.memory[offset : offset + 8], "little") ^ flip
    rig.device.write_memory(rig.places["PROGRAM"][0] + offset, word.to_bytes(8, "little"))


def damaged_code(rig: Rig, known: Known, rng: Random) -> str:
    """A changed word of an instruction is found by its signature."""
    offset = rng.choice(known.layout.code)
    _damage(rig, offset, rng)
    rig.expect_error(Error.INSTRUCTION_SIGNATURE, offset // BYTES * BYTES)
    return "INSTRUCTION_SIGNATURE"


def damaged_masks(rig: Rig, known: Known, rng: Random) -> str:
    """A changed word of masks is found by the first instruction that uses it."""
    offset, pc = rng.choice(list(known.layout.masks.items()))
    _damage(rig, offset, rng)
    rig.expect_error(Error.MASK_SIGNATURE, pc)
    return "MASK_SIGNATURE"


def damaged_constants(rig: Rig, known: Known, rng: Random) -> str:
    """A changed word of constants is found by the instruction that uses it."""
    offset, pc = rng.choice(list(known.layout.constants.items()))
    _damage(rig, offset, rng)
    rig.expect_error(Error.AFFINE_SIGNATURE, pc)
    return "AFFINE_SIGNATURE"


def flipped_beat(rig: Rig, known: Known, rng: Random) -> str:
    """Bits that change on the bus: an error where a signature covers them, never a wrong answer."""
    rig.poison()
    rig.device.fault_beat(rng.randrange(known.beats[True]), read=True, flip=1 << rng.randrange(64))
    rig.start()
    ending = rig.finish()
    at, size = rig.places["PROGRAM"]
    offset = rig.device.fault_address - at
    covered = {
        **dict.fromkeys(known.layout.code, Error.INSTRUCTION_SIGNATURE),
        **dict.fromkeys(known.layout.masks, Error.MASK_SIGNATURE),
        **dict.fromkeys(known.layout.constants, Error.AFFINE_SIGNATURE),
    }
    beat = range(offset, offset + rig.case.target.bus_bits // 8, 8)
    allowed = {covered[word] for word in beat if word in covered}
    if 0 <= offset < size and allowed:
        if ending.code not in allowed:
            raise Failure(f"code {ending.code} after a flipped bit at offset {offset:#x}")
        return Error(ending.code).name
    if ending.code:
        raise Failure(f"code {ending.code} after a flipped bit that nothing covers")
    return "not covered: image, spilled tensor or padding"


def reset(rig: Rig, known: Known, rng: Random) -> str:
    """A reset at any cycle leaves nothing behind."""
    rig.start()
    rig.device.advance(rng.randrange(known.cycles + 20))
    _reset(rig)
    return "reset"


def abort(rig: Rig, known: Known, rng: Random) -> str:
    """ABORT at any cycle: ABORTED, or a good end that was earlier."""
    late = rng.random() < 0.3
    rig.poison()
    rig.start()
    rig.device.advance(
        known.cycles + rng.randrange(-60, 20) if late else rng.randrange(known.cycles)
    )
    rig.write("CONTROL", _ABORT)
    ending = rig.finish()
    if ending.code == 0:
        rig.compare()
        return "good"
    if ending.code != Error.ABORTED:
        raise Failure(f"code {ending.code} after an abort")
    return "ABORTED"


def busy(rig: Rig, known: Known, rng: Random) -> str:
    """START and writes to the registers during a run change nothing."""
    rig.poison()
    values = rig.configure()
    rig.write("CONTROL", _START)
    for _ in range(rng.randrange(1, 4)):
        rig.device.advance(rng.randrange(known.cycles // 5))
        rig.write(rng.choice(list(values)), rng.getrandbits(32))
        rig.write("CONTROL", _START)
    rig.expect_good_end()
    for name, value in values.items():
        if (found := rig.read(name)) != value:
            raise Failure(f"{name} changed to {found:#x} during a run")
    return "good"


def interrupt_race(rig: Rig, known: Known, rng: Random) -> str:
    """Clearing DONE near the end of a run loses no end that came later."""
    rig.poison()
    rig.start()
    rig.device.advance(known.cycles + rng.randrange(-60, 30))
    rig.write("STATUS", regmap.STATUS_DONE | regmap.STATUS_ERROR)
    if rig.read("STATUS") & regmap.STATUS_BUSY:
        rig.expect_good_end()
        return "cleared before the end"
    done = bool(rig.read("STATUS") & regmap.STATUS_DONE)
    if rig.device.interrupt != done:
        raise Failure(f"interrupt is {rig.device.interrupt} with DONE {done}")
    rig.compare()
    return "seen" if done else "cleared after the end"


def late_enable(rig: Rig, known: Known, rng: Random) -> str:
    """The interrupt follows IRQ_ENABLE at any time, before and after the end."""
    rig.poison()
    rig.configure()
    rig.write("CONTROL", regmap.CONTROL_START)
    rig.device.advance(rng.randrange(2 * known.cycles))
    enabled = rng.random() < 0.5
    rig.write("CONTROL", _IRQ * enabled)
    if not enabled:
        rig.device.advance(2 * known.cycles)
        if rig.device.interrupt:
            raise Failure("interrupt without IRQ_ENABLE")
        rig.write("CONTROL", _IRQ)
    rig.expect_good_end()
    return "good"


def window(rig: Rig, known: Known, rng: Random) -> str:
    """A region that is too small."""
    name = rng.choice([name for name, (_, size) in rig.places.items() if size])
    size, step = rig.places[name][1], window_step(rig, name)
    small_window(rig, name, size - step * rng.randrange(1, size // step + 1))
    return f"WINDOW of {name}"


def window_step(rig: Rig, name: str) -> int:
    """The bytes by which a region must be smaller for something to lie outside."""
    return {"PROGRAM": BYTES, "SCRATCH": rig.case.target.lanes}.get(name, 16)


def small_window(rig: Rig, name: str, allowed: int) -> None:
    """With ``allowed`` bytes of a region: WINDOW, and no burst is read or written outside."""
    at, size = rig.places[name]
    if name == "OUTPUT":
        rig.poison()
    outside = at + allowed, size - allowed + _GUARD
    before = rig.device.read_memory(*outside)
    rig.device.watch(*outside)
    rig.expect_error(Error.WINDOW, **{f"{name}_SIZE": allowed})
    events = rig.device.events()
    rig.device.watch(0, 0)
    if events:
        raise Failure(f"something was read outside {name}, at {events[0][0]:#x}")
    if not np.array_equal(before, rig.device.read_memory(*outside)):
        raise Failure(f"something was written outside {name}")


def _run_anything(rig: Rig, known: Known) -> str:
    """Run a signed program of no sense: any documented end but a hang."""
    rig.start(WATCHDOG=2 * known.cycles)
    code = rig.finish().code
    if code not in set(Error):
        raise Failure(f"error code {code} is not in the specification")
    return Error(code).name if code else "no error"


def senseless_field(rig: Rig, known: Known, rng: Random) -> str:
    """A signed instruction with one or two random fields ends like any other: no hang."""
    pc = rng.choice(known.pcs)
    fields = {}
    for name in rng.sample([name for name in FIELDS if name != "signature"], rng.choice([1, 1, 2])):
        width = FIELDS[name].width
        fields[name] = rng.choice([rng.getrandbits(width), 0, (1 << width) - 1, 1])
    changed = signed(rig.case.program.memory, pc, **fields)
    rig.device.write_memory(rig.places["PROGRAM"][0] + pc, changed)
    return _run_anything(rig, known)


def senseless_code(rig: Rig, known: Known, rng: Random) -> str:
    """A random instruction with a signature that fits ends like any other: no hang."""
    words = [rng.getrandbits(64) & rng.choice([-1, rng.getrandbits(64)]) for _ in range(7)]
    opcodes = (0x01, 0x02, 0x10, 0x11, 0x12, 0x13, 0x14, 0x15, 0x20, 0x21)
    words[0] = words[0] & ~0xFF | rng.choice(opcodes)
    words.append(signature(words))
    pc = rng.choice(known.pcs[1:])
    data = b"".join(word.to_bytes(8, "little") for word in words)
    rig.device.write_memory(rig.places["PROGRAM"][0] + pc, data)
    return _run_anything(rig, known)


#: Kinds with their share of a campaign.
KINDS: dict[Kind, int] = {
    bus_error: 20,
    silence: 4,
    silence_and_abort: 3,
    pause: 8,
    pause_and_watchdog: 3,
    watchdog: 6,
    damaged_code: 10,
    damaged_masks: 10,
    damaged_constants: 10,
    flipped_beat: 14,
    reset: 8,
    abort: 12,
    busy: 6,
    interrupt_race: 6,
    late_enable: 3,
    window: 8,
    senseless_field: 12,
    senseless_code: 4,
}
