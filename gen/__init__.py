# SPDX-License-Identifier: Apache-2.0
"""Generator and compiler: from a target and a model to Verilog and programs."""
