# SPDX-License-Identifier: Apache-2.0
"""Memory of tensors on the CPU."""

from __future__ import annotations

import ctypes
import os

__all__ = ["keep_freed_memory"]

# Parameters of glibc's `mallopt`, from malloc.h.
_TRIM_THRESHOLD = -1
_MMAP_MAX = -4


def keep_freed_memory() -> bool:
    """Make the C library reuse the memory of freed tensors instead of giving it back at once.

    By default every large tensor is mapped anew and its pages are cleared when they are first
    written: 5 to 20 % of the time of a training step. Holds for the whole process. Returns whether
    the C library can do so. PyTorch is asked for large pages as well: it reads that from the
    environment before its first tensor on the CPU.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return bool(mallopt(_MMAP_MAX, 0)) and bool(mallopt(_TRIM_THRESHOLD, -1))
