# SPDX-License-Identifier: Apache-2.0
"""The number format of activations and effective weights during the search."""

from __future__ import annotations

import torch

__all__ = ["resolve"]

# CPU features with which bfloat16 convolutions are faster than float32. Without any of them they
# run in a reference kernel: 10 times slower on a CPU with AVX2 only.
_CPU_FEATURES = ("amx_bf16", "avx512_bf16")


def resolve(precision: str, device: torch.device) -> torch.dtype:
    """The type of a `train.precision`; "auto" is bfloat16 where `device` gains from it."""
    if precision == "auto":
        precision = "bf16" if _gains_from_bf16(device) else "fp32"
    return {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]


def _gains_from_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    features = torch.cpu.get_capabilities()
    return any(features.get(name, False) for name in _CPU_FEATURES)
