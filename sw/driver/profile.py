# SPDX-License-Identifier: Apache-2.0
"""Where the cycles of a run went: the hardware's counters, layer by layer.

The accelerator counts over a whole run. But each instruction begins with the fetch of the next one,
which a simulated memory sees: it reads the counters there.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from hiddenfold.hw import regmap
from hiddenfold.hw.isa import Opcode
from hiddenfold.sw.driver.accelerator import Accelerator
from hiddenfold.sw.driver.result import COUNTERS, RunResult
from hiddenfold.sw.instructions import instructions
from hiddenfold.sw.program import Program

#: What is known of each layer, by the names of :class:`RunResult`.
MEASURED = ("cycles", "array_cycles", "tile_stalls", "drain_stalls", "transfer_stalls")
#: Opcodes of instructions that belong to the layer after them; all others that are none of a
#: layer's own belong to the one before.
_BEFORE = (Opcode.BEGIN, Opcode.LOOP, Opcode.LOAD)
_REGISTERS = {name: register for register, name in COUNTERS.items()}

#: A device's events: address, cycle, registers.
Events = Sequence[tuple[int, int, list[int]]]


def profile(accelerator: Accelerator, images: np.ndarray) -> tuple[RunResult, list[dict[str, int]]]:
    """Run a batch of images through the loaded program and look at its layers.

    Returns the run and for each of ``program.layers`` a dictionary with the keys ``MEASURED``,
    whose sums are those of the run. Raises ``ValueError`` unless the device is a simulator and the
    images are one batch.
    """
    program = accelerator.program
    device: Any = accelerator.device
    if program is None or len(images) != program.batch:
        raise ValueError(
            f"a profile needs a loaded program and one batch, not {len(images)} images"
        )
    if not hasattr(device, "watch"):
        raise ValueError("a profile needs a simulated device, whose memory sees what is read")
    offsets = [regmap.REGISTERS[_REGISTERS[name]].offset for name in MEASURED]
    base = accelerator.program_address
    device.watch(base, program.instructions * 64, offsets)
    try:
        run = accelerator.run(images)
        events = [(address - base, cycle, values) for address, cycle, values in device.events()]
    finally:
        device.watch(0, 0)
    return run, divide(program, events, [getattr(run, name) for name in MEASURED])


def divide(program: Program, events: Events, totals: Sequence[int]) -> list[dict[str, int]]:
    """Divide counters among the layers; ``totals`` are those at the end."""
    opcodes = {offset: fields["opcode"] for offset, fields in instructions(program.memory)}
    layers_at: dict[int, list[int]] = {}
    for number, layer in enumerate(program.layers):
        for place in layer["pcs"]:
            layers_at.setdefault(place, []).append(number)
    result = np.zeros((len(program.layers), len(MEASURED)), np.int64)
    cycles, waits = MEASURED.index("cycles"), MEASURED.index("transfer_stalls")
    # Event k + 1 is the fetch that instruction k begins with; that of the last one is its own.
    values = [np.array(event[2], np.int64) for event in events[1:]]
    values.append(np.array(totals, np.int64))
    last, pending = 0, values[0].copy()
    wait = np.zeros_like(pending)
    for (place, _, _), start, end in zip(events[:-1], values[:-1], values[1:], strict=True):
        spent = (end - start) % (1 << 32)
        # What the next instruction waited for transfers is in here.
        after = np.zeros_like(spent)
        after[[cycles, waits]] = spent[waits]
        spent, wait = spent - after + wait, after
        if place in layers_at:
            queue = layers_at[place]
            last = queue[0]
            if len(queue) > 1:
                layers_at[place] = queue[1:]
            result[last] += spent + pending
            pending = np.zeros_like(pending)
        elif opcodes[place] in _BEFORE:
            pending += spent
        else:
            result[last] += spent
    result[last] += wait + pending
    return [dict(zip(MEASURED, map(int, row), strict=True)) for row in result]
