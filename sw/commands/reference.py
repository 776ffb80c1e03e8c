# SPDX-License-Identifier: Apache-2.0
"""The help of all commands, for the documentation."""

import argparse

from hiddenfold.sw.cli import build_parser

__all__ = ["markdown"]


def markdown() -> str:
    """The help of all commands as a page of Markdown."""
    parser, commands = build_parser()
    lines = ["# Commands", "", _help(parser)]
    for name, command in commands.items():
        lines += [f"## {name}", "", _help(command)]
    return "\n".join(lines)


def _help(parser: argparse.ArgumentParser) -> str:
    return f"```text\n{parser.format_help()}```\n"
