# SPDX-License-Identifier: Apache-2.0
"""Order of labels by logit (docs/spec.md section 4.5)."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["ranking"]


def ranking(logits: ArrayLike, count: int = 5) -> NDArray[np.int64]:
    """The `count` labels of highest logit, best first; of equal logits the lower label is first.

    `logits` are integers [..., classes]; the result is [..., min(count, classes)].
    """
    logits = np.asarray(logits, dtype=np.int64)
    return np.argsort(-logits, axis=-1, kind="stable")[..., :count]
