# SPDX-License-Identifier: Apache-2.0
"""Targets that come with Hiddenfold, one TOML file each; see :mod:`hiddenfold.gen.target`."""
