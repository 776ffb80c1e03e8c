# SPDX-License-Identifier: Apache-2.0
"""Cross references of Sphinx in docstrings become code: :class:`~a.b.C` is `C`."""

import re

import griffe

_ROLE = re.compile(r":\w+:`(~?)([^`]+)`")


class Roles(griffe.Extension):
    """Rewrites every docstring when it is read."""

    def on_object(self, *, obj: griffe.Object, **rest: object) -> None:
        """Called for each module, class, function and attribute."""
        if obj.docstring:
            text = obj.docstring.value.replace("``", "`").replace("::\n", ":\n")
            obj.docstring.value = _ROLE.sub(_name, text)


def _name(match: re.Match[str]) -> str:
    name = match[2].rpartition(".")[2] if match[1] else match[2].lstrip(".")
    return f"`{name}`"
