# SPDX-License-Identifier: Apache-2.0
"""What is accepted as images where there may be too many to have them all in memory."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["Images"]


class Images(Protocol):
    """Images; slices are arrays uint8 [n, height, width, 3], and such an array is one itself."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: slice, /) -> NDArray[np.uint8]: ...
