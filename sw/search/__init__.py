# SPDX-License-Identifier: Apache-2.0
"""Search of supermasks in folded residual networks (PyTorch)."""
