# SPDX-License-Identifier: Apache-2.0
"""A second opinion: golden model and program interpreter in plain numpy, from docs/spec.md alone.

It shares no line and no table with `hiddenfold.sw`, `hiddenfold.gen` and `hiddenfold.verif.golden`,
and does the same things in other ways (matrices where they use polynomials, single steps where they
leap), so that an error of thought in one of the two shows as a difference.
"""
