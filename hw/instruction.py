# SPDX-License-Identifier: Apache-2.0
"""The instruction word as an Amaranth layout, made from :mod:`hiddenfold.hw.isa`."""

from amaranth.hdl import unsigned
from amaranth.lib import data

from hiddenfold.hw import isa

#: 512 bits; each field of docs/spec.md section 7 is a member.
LAYOUT = data.FlexibleLayout(
    64 * isa.WORDS,
    {
        name: data.Field(unsigned(field.width), 64 * field.word + field.lsb)
        for name, field in isa.FIELDS.items()
    },
)
