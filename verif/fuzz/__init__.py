# SPDX-License-Identifier: Apache-2.0
"""Hostile files: every reader of a file format against damaged and made-up input.

A file is refused with the documented error in one line, or it is accepted and can be used. Nothing
else may happen: no other exception, no hang, no memory out of proportion.
"""
