# SPDX-License-Identifier: Apache-2.0
"""The commands of ``hiddenfold``, one module per group; each has ``register(commands)``."""

from hiddenfold.sw.commands import (
    doctor,
    explore,
    hardware,
    interchange,
    models,
    pages,
    run,
    search,
    verify,
)

__all__ = ["GROUPS"]

#: In the order of the help text.
GROUPS = (search, interchange, models, hardware, explore, run, verify, pages, doctor)
