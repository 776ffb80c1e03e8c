# SPDX-License-Identifier: Apache-2.0
"""Boards: designs of LiteX around the accelerator, made by ``python -m hiddenfold.hw.boards.NAME``.

They need the extra ``build`` and import nothing of the other packages.
"""
