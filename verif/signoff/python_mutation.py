# SPDX-License-Identifier: Apache-2.0
"""``python -m hiddenfold.verif.signoff.python_mutation``: mutants of golden model and compiler.

A mutant changes one operator, comparison or number of one function. It lives in a process of its
own, in which the function's code is exchanged, so that nothing has to be imported again. It is
found if the golden model and the interpreter of programs, which share no code, then disagree about
a small random network or its bytes, or if a test of its module fails.
"""

import argparse
import ast
import importlib
import inspect
import json
import os
import random
import signal
import sys
import time
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

import numpy as np
import pytest

from hiddenfold.gen.compile import CompileError, compile_model
from hiddenfold.gen.target import Target
from hiddenfold.sw.model import Model
from hiddenfold.sw.verify import network_limits
from hiddenfold.verif.golden.compare import Layer, first_mismatch
from hiddenfold.verif.golden.interpreter import run
from hiddenfold.verif.golden.model import Golden
from hiddenfold.verif.golden.random_networks import random_image, random_model
from hiddenfold.verif.signoff.outcome import write_outcome

SURVIVORS = Path(__file__).with_name("python_survivors.toml")
#: What is mutated, and the tests of it in ``verif/tests``.
MODULES = {
    "verif.golden.model": ("second_vectors", "golden_network"),
    "gen.code": ("gen_compile", "second_agreement"),
    "gen.tiling": ("gen_tiling", "gen_cost"),
    "gen.streams": ("gen_compile", "second_agreement"),
    "gen.allocate": ("gen_allocate", "gen_spill", "gen_cost"),
    "gen.schedule": ("gen_schedule", "gen_spill", "gen_cost"),
    "gen.mask_cache": ("gen_compile", "gen_spill", "gen_cost"),
    "gen.stripes": ("gen_spill", "gen_schedule"),
    "gen.actions": ("gen_spill", "gen_schedule", "gen_cost"),
    "sw.signs": ("sw_signs", "sw_vectors", "second_vectors"),
    "sw.frozen": ("sw_frozen", "sw_model_errors", "second_vectors", "second_agreement"),
    "sw.shapes": ("sw_model", "golden_random", "second_agreement"),
}
_TESTS = Path(__file__).parent.parent / "tests"
#: Seconds after which a mutant counts as hung, and so as found: in the comparison and in the tests.
_PATIENCE = 60
_PATIENCE_WITH_TESTS = 900
_SWAPS: dict[type, type] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Add,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.BitXor: ast.BitOr,
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.And: ast.Or,
    ast.Or: ast.And,
}


class _Mutator(ast.NodeTransformer):
    """Changes the ``wanted``-th place that can be changed; counts the places."""

    def __init__(self, wanted: int):
        self.wanted, self.places, self.text = wanted, 0, ""

    def _hit(self, node: ast.AST, text: str) -> bool:
        self.places += 1
        if self.places - 1 != self.wanted:
            return False
        self.text = f"line {getattr(node, 'lineno', 0)}: {text}"
        return True

    def _swap(self, node, operator: Any) -> Any:
        new = _SWAPS.get(type(operator))
        if new and self._hit(node, f"{type(operator).__name__} to {new.__name__}"):
            return new()
        return operator

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        self.generic_visit(node)
        node.op = self._swap(node, node.op)
        return node

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.AST:
        self.generic_visit(node)
        node.op = self._swap(node, node.op)
        return node

    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        self.generic_visit(node)
        node.ops = [self._swap(node, operator) for operator in node.ops]
        return node

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        if type(node.value) is int and self._hit(node, f"{node.value} to {node.value + 1}"):
            return ast.copy_location(ast.Constant(node.value + 1), node)
        return node

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        return node  # texts of errors are tested elsewhere

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        if node.value is not None:
            node.value = self.visit(node.value)
        return node

    def visit_arguments(self, node: ast.arguments) -> ast.AST:
        return node


def functions(module: ModuleType) -> Iterator[tuple[str, FunctionType]]:
    """All functions and methods that a module defines, by qualified name."""
    for holder in (module, *(c for c in vars(module).values() if inspect.isclass(c))):
        if getattr(holder, "__module__", module.__name__) != module.__name__:
            continue
        for member in list(vars(holder).values()):
            bare = getattr(member, "__func__", getattr(member, "fget", member))
            function = inspect.unwrap(bare) if callable(bare) else bare
            if isinstance(function, FunctionType) and function.__module__ == module.__name__:
                yield function.__qualname__, function


def _code_objects(code: CodeType) -> Iterator[CodeType]:
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield constant
            yield from _code_objects(constant)


def _find(tree: ast.Module, line: int) -> ast.FunctionDef | None:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
            if first == line:
                return node
    return None


def mutants(name: str) -> Iterator[tuple[str, FunctionType, CodeType]]:
    """Text, function and mutated code of each mutant of a module."""
    module = importlib.import_module(f"hiddenfold.{name}")
    source = inspect.getsource(module)
    for qualified, function in functions(module):
        line, number = function.__code__.co_firstlineno, 0
        while True:
            tree = ast.parse(source)
            node = _find(tree, line)
            if node is None:
                break
            mutator = _Mutator(number)
            node.body = [mutator.visit(statement) for statement in node.body]
            if not mutator.text:
                break
            number += 1
            whole = compile(ast.fix_missing_locations(tree), str(module.__file__), "exec")
            for code in _code_objects(whole):
                same = code.co_qualname == qualified and code.co_firstlineno == line
                if same and code.co_freevars == function.__code__.co_freevars:
                    yield f"{name}.{qualified} {mutator.text}", function, code


class Check:
    """Small networks and what is expected of them."""

    def __init__(self, networks: int = 14):
        """Make the networks; the code must not be mutated yet."""
        self.target = Target.load("sim-tiny")
        limits = network_limits(self.target)
        self.jobs: list[tuple[Model, np.ndarray, dict]] = []
        for seed in range(networks):
            model = random_model(seed, limits)
            rng = np.random.default_rng(seed)
            batch = 1 + seed % 3
            images = np.stack([random_image(rng, *model.image) for _ in range(batch)])
            variants: tuple[dict[str, Any], ...] = (
                {"batch": batch},
                {"act_words": 64 << seed % 4},
            )
            for options in variants:
                if "batch" not in options:
                    images = images[:1]
                try:
                    compile_model(model, self.target, trace=True, **options)
                except CompileError:
                    continue
                self.jobs.append((model, images, options))

    def passes(self) -> bool:
        """Whether golden model, compiler and interpreter agree."""
        for model, images, options in self.jobs:
            program = compile_model(model, self.target, trace=True, **options)
            result = run(
                program.memory,
                program.target_parameters,
                program.target_id,
                program.pack_images(images),
                program.scratch_bytes,
            )
            written = len(images) * program.predicted_bytes_written
            if result.bytes_saved + len(result.output) != written:
                return False
            if abs(result.bytes_read / len(images) - program.predicted_bytes_read) > 0.5:
                return False
            outputs = program.unpack_output(result.output, len(images))
            layers = [
                Layer(entry["name"], entry["iteration"], np.stack([o.trace[i] for o in outputs]))
                for i, entry in enumerate(program.image_trace)
            ]
            logits = np.stack([output.logits for output in outputs])
            layers.append(Layer(program.layers[-1]["name"], 0, logits))
            if first_mismatch(Golden(model).trace(images), layers) is not None:
                return False
        return True


def survives(
    check: Check, function: FunctionType, code: CodeType, tests: Sequence[str] = ()
) -> bool:
    """Whether the mutant passes, in a child that is ended after a while."""
    child = os.fork()
    if child == 0:
        signal.alarm(_PATIENCE)
        found = True
        try:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, 1)
            os.dup2(nowhere, 2)
            function.__code__ = code
            found = not check.passes()
            if not found and tests:
                signal.alarm(_PATIENCE_WITH_TESTS)
                files = [str(_TESTS / f"test_{name}.py") for name in tests]
                found = pytest.main(["-q", "-x", "-p", "no:cacheprovider", *files]) != 0
        except BaseException:  # whatever a mutant raises, it is found
            found = True
        os._exit(int(found))
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def explanations() -> dict[str, str]:
    """Reasons why survivors are harmless, by mutant."""
    with SURVIVORS.open("rb") as file:
        entries = tomllib.load(file).get("survivor", [])
    return {entry["where"]: entry["reason"] for entry in entries}


def main() -> int:
    """Judge a random choice of mutants; exit status 1 if an unexplained one survives."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--modules", nargs="+", choices=MODULES, default=list(MODULES))
    parser.add_argument("--json", type=Path, help="write the outcome here")
    parser.add_argument(
        "--again",
        action="store_true",
        help="only judge the survivors in the file of --json that have no explanation",
    )
    arguments = parser.parse_args()
    everything = [
        (*mutant, MODULES[name]) for name in arguments.modules for mutant in mutants(name)
    ]
    chosen = random.Random(arguments.seed).sample(everything, min(arguments.count, len(everything)))
    reasons, survivors, seconds = explanations(), [], 0.0
    count, judged = len(chosen), chosen
    if arguments.again:
        if arguments.json is None:
            parser.error("argument --again: needs --json, a file of an earlier run")
        before = json.loads(arguments.json.read_text(encoding="utf-8"))
        count, seconds = before["mutants"], before["seconds"]
        places = [entry["where"] for entry in before["survivors"]]
        survivors = [{"where": w, "reason": reasons[w]} for w in places if w in reasons]
        judged = [m for m in chosen if m[0] in places and m[0] not in reasons]
    check, began = Check(), time.monotonic()
    if not check.passes():
        raise SystemExit("the code itself does not pass")
    for where, function, code, tests in judged:
        if survives(check, function, code, tests):
            survivors.append({"where": where, "reason": reasons.get(where, "")})
            print(f"survivor: {where}", flush=True)
    harmless = sum(bool(entry["reason"]) for entry in survivors)
    data = {
        "mutants": count,
        "of": len(everything),
        "found": count - len(survivors),
        "harmless": harmless,
        "survivors": survivors,
        "seconds": seconds + time.monotonic() - began,
        "seed": arguments.seed,
    }
    write_outcome(arguments.json, data)
    print(
        f"{data['found']} of {data['mutants']} mutants found (of {data['of']} possible), "
        f"{harmless} explained, {data['seconds']:.0f} s (seed {arguments.seed})"
    )
    return int(len(survivors) > harmless)


if __name__ == "__main__":
    sys.exit(main())
