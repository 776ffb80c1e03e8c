# SPDX-License-Identifier: Apache-2.0
"""``python -m hiddenfold.sw.commands.reference``: the help of all commands, one after the other."""

from hiddenfold.sw.cli import build_parser

__all__ = ["reference"]


def reference() -> str:
    """The text."""
    parser, commands = build_parser()
    rule = f"\n{'-' * 78}\n\n"
    return rule.join(part.format_help() for part in (parser, *commands.values()))


if __name__ == "__main__":
    print(reference(), end="")
