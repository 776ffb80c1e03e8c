# SPDX-License-Identifier: Apache-2.0
"""Testbenches: cocotb drivers, monitors and checkers."""
