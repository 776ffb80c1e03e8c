# SPDX-License-Identifier: Apache-2.0
"""Proofs of hardware properties by k-induction; ``python -m hiddenfold.verif.formal`` runs all."""
