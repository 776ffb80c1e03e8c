# SPDX-License-Identifier: Apache-2.0
"""Driver: loads programs into an accelerator and runs images through it."""
