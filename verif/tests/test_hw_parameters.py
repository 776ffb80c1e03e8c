# amaranth: UnusedElaboratable=no
# SPDX-License-Identifier: Apache-2.0
"""Error messages of the constructors in hw (a file of its own for the option in its first line)."""

import pytest

from hiddenfold.hw.axi_read import ReadChannel
from hiddenfold.hw.axi_write import WriteChannel
from hiddenfold.hw.fifo import ShortQueue, StreamFifo
from hiddenfold.hw.registers import Registers
from hiddenfold.hw.store import Store
from hiddenfold.hw.unfold import Unfold

_READ = {"ports": 1, "data_bits": 64, "depths": (32,)}
_REGISTERS = {"target_id": 0, "rows": 8, "lanes": 8, "planes": 1, "bus_bits": 64}

_UNFOLD = {"lanes": 8, "bus_bits": 64, "image_width": 4, "stem_kernel": 3, "act_addr_bits": 8}

CASES = [
    (StreamFifo, {"shape": 8, "depth": 0}, "FIFO depth must be a power of two from 2, not 0"),
    (StreamFifo, {"shape": 8, "depth": 12}, "FIFO depth must be a power of two from 2, not 12"),
    (ShortQueue, {"shape": 8, "depth": 0}, "queue depth must be at least 1, not 0"),
    (
        ReadChannel,
        _READ | {"data_bits": 48},
        r"AXI data bits must be one of \(32, 64, 128, 256, 512, 1024\), not 48",
    ),
    (
        WriteChannel,
        {"data_bits": 64, "max_burst": 3},
        r"longest burst must be a power of two in 1\.\.256, not 3",
    ),
    (ReadChannel, _READ | {"ports": 2}, r"2 ports need as many FIFO depths, not \(32,\)"),
    (
        WriteChannel,
        {"data_bits": 64, "outstanding": 0},
        "bursts in flight must be at least 1, not 0",
    ),
    (
        Registers,
        _REGISTERS | {"target_id": 1 << 32},
        r"target identifier must be in 0\.\.2\^32-1, not 4294967296",
    ),
    (Unfold, _UNFOLD | {"stem_kernel": 4}, "stem kernel must be 1, 3, 5 or 7, not 4"),
    (Unfold, _UNFOLD | {"image_width": 0}, "image width must be at least 1, not 0"),
    (Unfold, _UNFOLD | {"bus_bits": 32}, "bus bits must be 64 or 128, not 32"),
    (
        Store,
        {"lanes": 8, "bus_bits": 128, "part_bits": 128, "act_addr_bits": 8},
        "part bits must be from 128, the bus bits, to 64, a word's, not 128",
    ),
    (Registers, _REGISTERS | {"rows": 256}, r"rows must be in 1\.\.255, not 256"),
]


@pytest.mark.parametrize(("component", "parameters", "message"), CASES)
def test_bad_parameter(component, parameters, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        component(**parameters)
