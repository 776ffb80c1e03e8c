# SPDX-License-Identifier: Apache-2.0
"""Golden model: the integer arithmetic of docs/spec.md in PyTorch."""
