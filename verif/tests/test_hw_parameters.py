# amaranth: UnusedElaboratable=no
# SPDX-License-Identifier: Apache-2.0
"""Error messages of the constructors in hw (a file of its own for the option in its first line)."""

import pytest

from hiddenfold.hw.axi import ReadChannel, WriteChannel
from hiddenfold.hw.fifo import StreamFifo
from hiddenfold.hw.registers import Registers

_READ = {"ports": 1, "data_bits": 64, "depths": (32,)}
_REGISTERS = {"target_id": 0, "rows": 8, "lanes": 8, "planes": 1, "bus_bits": 64}

CASES = [
    (StreamFifo, {"shape": 8, "depth": 0}, "FIFO depth must be a power of two from 2, not 0"),
    (StreamFifo, {"shape": 8, "depth": 12}, "FIFO depth must be a power of two from 2, not 12"),
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
    (Registers, _REGISTERS | {"rows": 256}, r"rows must be in 1\.\.255, not 256"),
]


@pytest.mark.parametrize(("component", "parameters", "message"), CASES)
def test_bad_parameter(component, parameters, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        component(**parameters)
