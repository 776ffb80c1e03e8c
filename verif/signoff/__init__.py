# SPDX-License-Identifier: Apache-2.0
"""Sign-off: verification plan, coverage, injected faults, mutants and their report."""
