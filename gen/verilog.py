# SPDX-License-Identifier: Apache-2.0
"""Makes generated Verilog small and portable: one copy of equal modules, no memory contents."""

from __future__ import annotations

import re

__all__ = ["tidy"]

_MODULE = re.compile(r"^module (\S+) ?\(.*?^endmodule\n", re.MULTILINE | re.DOTALL)
_MEMORY_INIT = re.compile(r"  initial begin\n(?:    .*\[\d+\] = \d+'h0+;\n)+  end\n")
#: Each process begins with an empty `if` of a register, so that the register's first value, as an
#: event at time 0, runs the process. Simulators may make that value before they wait for events
#: (Icarus Verilog 11 does), and outputs of processes would be x until their inputs change: so there
#: is another change, after all processes wait.
_BEGIN = "  reg \\$unused  = 0;\n"
_CHANGE = """  // synthesis translate_off
  initial \\$unused  <= 1;
  // synthesis translate_on
"""
_COUNTER = re.compile(r"\\\$auto\$verilog_backend\.cc:\d+:dump_module\$\d+ ")


def tidy(text: str) -> str:
    """Return the same design with equal modules merged and all-zero memory contents left out.

    Amaranth writes a module for each instance of a component and one line for each word of each
    memory. Merged rows of the array let tools compile the row once; block RAM contents are never
    relied upon (everything is written before it is read). Each process runs at time 0.
    """
    text = _MEMORY_INIT.sub("", text)
    text = _COUNTER.sub(r"\\$unused ", text).replace(_BEGIN, _BEGIN + _CHANGE)
    while True:
        first: dict[str, str] = {}
        merged: dict[str, str] = {}

        def keep(match: re.Match[str], first=first, merged=merged) -> str:
            name, body = match[1], match[0].split("(", 1)[1]
            original = first.setdefault(body, name)
            if original == name:
                return match[0]
            merged[name] = original
            return ""

        text = _MODULE.sub(keep, text)
        if not merged:
            return re.sub(r"\n{3,}", "\n\n", text)
        names = "|".join(re.escape(name) for name in sorted(merged, key=len, reverse=True))

        def rename(match: re.Match[str], merged=merged) -> str:
            return match[1] + merged[match[2]]

        text = re.sub(rf"^(  )({names})(?= )", rename, text, flags=re.MULTILINE)
