# SPDX-License-Identifier: Apache-2.0
"""The wheel: everything is in it, and it works where only its basic requirements are installed."""

import json
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SETUPTOOLS = PROJECT["tool"]["setuptools"]


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """A folder like `site-packages` after `pip install hiddenfold`."""
    folder = tmp_path_factory.mktemp("wheel")
    # A copy: setuptools leaves build/ where it works, and takes what older builds left there.
    source = folder / "source"
    names = [*(name.split("/")[0] for name in SETUPTOOLS["package-dir"].values())]
    for name in {*names, "pyproject.toml", "README.md", "LICENSE"}:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        source.mkdir(exist_ok=True)
        copy(ROOT / name, source / name)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check"]
    command += ["--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(source)]
    subprocess.run(command, check=True, timeout=600)
    (wheel,) = folder.glob("*.whl")
    site = folder / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    for requirement in PROJECT["project"]["dependencies"]:
        for file in metadata.files(requirement.partition("==")[0]) or []:
            top = file.parts[0]
            if top not in ("..", "__pycache__") and not (site / top).exists():
                (site / top).symlink_to(file.locate().parents[len(file.parts) - 2])
    return site


def run(site: Path, *arguments: str) -> subprocess.CompletedProcess:
    """Run the command line where nothing but `site` can be imported."""
    code = f"import sys; sys.path.insert(0, {str(site)!r}); import hiddenfold.sw.cli as c; "
    code += f"sys.exit(c.main({list(arguments)!r}))"
    command = [sys.executable, "-I", "-S", "-c", code]
    return subprocess.run(command, capture_output=True, text=True, cwd=site, check=False)


def test_everything_is_in_the_wheel(site):
    wanted = set()
    for package, folder in SETUPTOOLS["package-dir"].items():
        patterns = ["*.py", *SETUPTOOLS["package-data"].get(package, [])]
        for pattern in patterns:
            for path in (ROOT / folder).glob(pattern):
                place = Path(package.replace(".", "/")) / path.relative_to(ROOT / folder)
                wanted.add(place.as_posix())
    found = {
        path.relative_to(site).as_posix()
        for path in (site / "hiddenfold").rglob("*")
        if path.is_file()
    }
    assert found == wanted


def test_data_files_of_the_tree_are_package_data():
    """A new header, page or script beside the code would be missing after an installation."""
    for package, folder in SETUPTOOLS["package-dir"].items():
        names = {path.name for path in (ROOT / folder).iterdir() if path.is_file()}
        names = {name for name in names if not name.endswith((".py", ".md")) and name[0] != "."}
        data = SETUPTOOLS["package-data"].get(package, [])
        assert all(any(Path(name).match(pattern) for pattern in data) for name in names), package


def test_basic_installation(site):
    result = run(site, "inspect", str(site / "hiddenfold/models/hfn-cifar100.hfn"), "--json")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["classes"] == 100
    result = run(site, "doctor", "--quick", "--json")
    checks = {check["name"]: check for check in json.loads(result.stdout)["checks"]}
    assert checks["packages"]["state"] == "good"
    for extra in ("train", "hw"):
        assert checks[f"packages of {extra!r}"]["state"] == "absent"
    result = run(site, "generate", "--target", "sim-tiny", "-o", "out")
    assert (result.returncode, result.stdout) == (2, "")
    assert re.search(r"needs the Python package 'amaranth'.*'hiddenfold\[hw\]'", result.stderr)


def test_driver_alone(site):
    code = (
        f"import sys; sys.path.insert(0, {str(site)!r})\n"
        "from hiddenfold.sw.driver.accelerator import Accelerator\n"
        "from hiddenfold.sw.program import Program\n"
        "heavy = {'torch', 'amaranth', 'PIL', 'jinja2'} & set(sys.modules)\n"
        "print(sorted(heavy), Accelerator.__name__, Program.__name__)\n"
    )
    command = [sys.executable, "-I", "-S", "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.stdout == "[] Accelerator Program\n", result.stderr
