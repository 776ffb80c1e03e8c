# SPDX-License-Identifier: Apache-2.0
"""What a run of the accelerator returns."""

from dataclasses import dataclass

import numpy as np

#: The hardware's counters by the name of their register (docs/spec.md section 8).
COUNTERS = {
    "CYCLES": "cycles",
    "ARRAY_CYCLES": "array_cycles",
    "TILE_STALLS": "tile_stalls",
    "DRAIN_STALLS": "drain_stalls",
    "BUS_STALLS": "bus_stalls",
    "TRANSFER_STALLS": "transfer_stalls",
    "READ_BYTES": "bytes_read",
    "WRITE_BYTES": "bytes_written",
}


@dataclass(frozen=True)
class TraceEntry:
    """The output tensor of one execution of one operation, as the accelerator computed it.

    ``data`` is uint8 [height, width, channels].
    """

    name: str
    iteration: int
    data: np.ndarray


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """Logits, counters and traces of a run over N images.

    Parameters
    ----------
    logits
        int32 [N, classes].
    cycles, array_cycles, tile_stalls, drain_stalls, bus_stalls, transfer_stalls, bytes_read
        These and ``bytes_written`` are the accelerator's counters (docs/spec.md section 8), the sum
        over all images that it worked on.
    processed
        Number of these: N and what filled up the last batch.
    seconds
        Time the runs took on the host's clock, transfers not included.
    traces
        For each image the outputs of all executions in order, or None if the program has no trace.
    """

    logits: np.ndarray
    cycles: int
    array_cycles: int
    tile_stalls: int
    drain_stalls: int
    bus_stalls: int
    transfer_stalls: int
    bytes_read: int
    bytes_written: int
    processed: int
    seconds: float
    traces: list[list[TraceEntry]] | None

    @property
    def images(self) -> int:
        """Number of images."""
        return len(self.logits)

    def per_image(self) -> dict[str, float]:
        """Return each counter divided by the number of images that the accelerator worked on."""
        return {name: getattr(self, name) / self.processed for name in COUNTERS.values()}

    def top5(self) -> np.ndarray:
        """Return the labels of the five largest logits, int [N, min(5, classes)]; ties go low."""
        return np.argsort(-self.logits.astype(np.int64), axis=1, kind="stable")[:, :5]
