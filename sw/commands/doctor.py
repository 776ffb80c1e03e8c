# SPDX-License-Identifier: Apache-2.0
"""``doctor`` and ``completion``: help with the machine and the shell."""

import argparse
import sys
import textwrap
from dataclasses import asdict
from typing import Any

from hiddenfold.sw.colour import bad, faint, good
from hiddenfold.sw.commands.common import Outcome, add_command, format_bytes
from hiddenfold.sw.driver import cache

__all__ = ["register"]

SHELLS = ("bash", "zsh", "fish")
#: Where each shell looks for such a script, and how to put it there.
INSTALL = {
    "bash": "hiddenfold completion bash > ~/.local/share/bash-completion/completions/hiddenfold",
    "zsh": "hiddenfold completion zsh > ~/.zfunc/_hiddenfold   # with ~/.zfunc in $fpath",
    "fish": "hiddenfold completion fish > ~/.config/fish/completions/hiddenfold.fish",
}


def register(commands: Any) -> None:
    """Add the commands of this module."""
    parser = add_command(
        commands,
        "doctor",
        doctor,
        "check what the commands need, and say how to mend it",
        example=(
            "hiddenfold doctor",
            "hiddenfold doctor --prune 1     # keep the newest GiB of compiled simulators",
        ),
        detail="Exit code 1 when something that is needed is missing or of another version.",
    )
    parser.add_argument(
        "--quick", action="store_true", help="do not compile a circuit, which takes some seconds"
    )
    parser.add_argument(
        "--prune",
        metavar="GIB",
        type=_gibibytes,
        help="first remove compiled simulators, the longest unused first, until the rest is "
        f"smaller; happens at {cache.LIMIT_GIB:g} GiB (${cache.LIMIT_VARIABLE}) by itself",
    )

    parser = add_command(
        commands,
        "completion",
        completion,
        "print the script that completes commands and options in a shell",
        example=tuple(INSTALL.values()),
    )
    parser.add_argument("shell", metavar="SHELL", choices=SHELLS, help=", ".join(SHELLS))


def doctor(args: argparse.Namespace) -> Outcome:
    """Run ``hiddenfold doctor``."""
    from hiddenfold.sw.doctor import check_machine

    removed = [] if args.prune is None else cache.prune(args.prune, spared=0.0)
    checks = []
    lines = []
    if removed:
        size = format_bytes(sum(entry.size for entry in removed))
        lines.append(f"removed {len(removed)} entries of the cache, {size}\n")
    if not args.quick and sys.stderr.isatty():
        print("compiling a small circuit ...", end="\r", file=sys.stderr, flush=True)
    for check in check_machine(compiling=not args.quick):
        checks.append(check)
        lines.append(_line(check.state, check.name, check.found))
        if check.state != "good" and check.remedy:
            lines.append(textwrap.indent(textwrap.fill(check.remedy, 76), " " * 8 + "-> "))
    wrong = [check.name for check in checks if check.state == "bad"]
    lines.append("")
    lines.append(bad(f"to be mended: {', '.join(wrong)}") if wrong else good("all is well"))
    data = {
        "healthy": not wrong,
        "checks": [asdict(check) for check in checks],
        "cache_bytes": sum(entry.size for entry in cache.entries()),
        "pruned": [entry.path.name for entry in removed],
    }
    return Outcome(data, "\n".join(lines), int(bool(wrong)))


def _line(state: str, name: str, found: str) -> str:
    paint = {"good": good, "bad": bad, "absent": faint}[state]
    blank = " " * 30
    body = textwrap.fill(
        found, 78, initial_indent=blank, subsequent_indent=blank, break_on_hyphens=False
    ).lstrip()
    return f"{paint(f'{state:<7}')} {name:<21} {body}"


def completion(args: argparse.Namespace) -> Outcome:
    """Run ``hiddenfold completion``."""
    from argcomplete.shell_integration import shellcode

    script = shellcode(["hiddenfold"], shell=args.shell).strip()
    return Outcome({"shell": args.shell, "script": script}, script)


def _gibibytes(text: str) -> int:
    try:
        return cache.gibibytes(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
