# SPDX-License-Identifier: Apache-2.0
"""The IP folder for Vivado, as far as it can be checked without Vivado."""

import tkinter
import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest

from hiddenfold.gen import ipxact
from hiddenfold.gen.package import package
from hiddenfold.gen.ports import ports
from hiddenfold.gen.target import Target
from hiddenfold.gen.tools import run_yosys
from hiddenfold.hw import regmap

TARGET = replace(Target.load("sim-tiny"), family="xc7", planes=8, clock_mhz=125)
NAMES = {"s": ipxact.SPIRIT, "x": ipxact.XILINX}
#: Stand-ins for Vivado's commands: every call is noted, and answered where the answer matters.
STUBS = r"""
set calls {}
proc unknown {args} { lappend ::calls $args; return "<[join $args { }]>" }
proc get_ipdefs {all name} { return [list [string map {* 1.9} $name] [string map {* 1.10} $name]] }
set slack 0.25
proc get_property {name of} {
    return [dict get [list PROGRESS 100% SLACK $::slack DIRECTORY /runs] $name]
}
namespace eval ipx { proc check_integrity {core} { return 1 } }
proc glob {args} { return [list system.hwh] }
proc puts {args} {}
rename file real_file
proc file {sub args} {
    if {$sub eq "copy"} { lappend ::calls [list file copy {*}$args]; return }
    return [real_file $sub {*}$args]
}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("ip") / "tiny"
    package(TARGET, out)
    return out


def run_tcl(script, slack: float = 0.25) -> list[str]:
    """Run a script with stand-ins for Vivado; return the calls as text."""
    tcl = tkinter.Tcl()
    tcl.eval(STUBS)
    tcl.eval(f"set slack {slack}")
    tcl.eval(f"source {{{script}}}")
    return [
        " ".join(map(str, tcl.splitlist(call))) for call in tcl.splitlist(tcl.eval("set calls"))
    ]


def test_files(folder):
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert found >= {
        "component.xml",
        "hiddenfold_ooc.xdc",
        "settings.tcl",
        "package_ip.tcl",
        "pynq_z2.tcl",
        "block_design.tcl",
        "hdl/hiddenfold.v",
        "hdl/hiddenfold.h",
        "hdl/manifest.json",
    }
    assert "-period 8.000 [get_ports aclk]" in (folder / "hiddenfold_ooc.xdc").read_text()
    # For a synthesis of the core alone: a design has its own clock.
    root = ET.parse(folder / "component.xml").getroot()
    (constraints,) = (
        file
        for file in root.findall(".//s:file", NAMES)
        if file.findtext("s:name", None, NAMES) == "hiddenfold_ooc.xdc"
    )
    assert {kind.text for kind in constraints.findall("s:userFileType", NAMES)} == {
        "USED_IN_implementation",
        "USED_IN_out_of_context",
        "USED_IN_synthesis",
        "xdc",
    }


def test_component_covers_every_port_once(folder):
    root = ET.parse(folder / "component.xml").getroot()
    declared = {}
    for port in root.findall("s:model/s:ports/s:port", NAMES):
        left = port.findtext("s:wire/s:vector/s:left", "0", NAMES)
        direction = port.findtext("s:wire/s:direction", None, NAMES)
        declared[port.findtext("s:name", None, NAMES)] = (f"{direction}put", int(left) + 1)
    assert declared == {port.name: (port.direction, port.width) for port in ports(TARGET)}
    mapped = [e.text for e in root.findall(".//s:physicalPort/s:name", NAMES)]
    assert sorted(mapped) == sorted(declared)
    for file in root.findall(".//s:file/s:name", NAMES):
        assert (folder / file.text).is_file()
    sets = {e.findtext("s:name", None, NAMES) for e in root.findall(".//s:fileSet", NAMES)}
    assert {e.text for e in root.findall(".//s:fileSetRef/s:localName", NAMES)} == sets


def test_component_interfaces(folder):
    root = ET.parse(folder / "component.xml").getroot()
    found = {}
    for interface in root.findall("s:busInterfaces/s:busInterface", NAMES):
        settings = {
            parameter.findtext("s:name", None, NAMES): parameter.findtext("s:value", None, NAMES)
            for parameter in interface.findall("s:parameters/s:parameter", NAMES)
        }
        bus = interface.find("s:busType", NAMES).get(f"{{{ipxact.SPIRIT}}}name")
        role = next(
            role for role in ("master", "slave") if interface.find(f"s:{role}", NAMES) is not None
        )
        found[interface.findtext("s:name", None, NAMES)] = (bus, role, settings)
    assert found["s_axi"] == ("aximm", "slave", {"PROTOCOL": "AXI4LITE"})
    assert found["m_axi"][:2] == ("aximm", "master")
    assert found["m_axi"][2]["DATA_WIDTH"] == "64"
    clock = {
        "ASSOCIATED_BUSIF": "s_axi:m_axi",
        "ASSOCIATED_RESET": "aresetn",
    }
    assert found["aclk"] == ("clock", "slave", clock)
    assert found["aresetn"] == ("reset", "slave", {"POLARITY": "ACTIVE_LOW"})
    assert found["irq"] == ("interrupt", "master", {"SENSITIVITY": "LEVEL_HIGH"})
    registers = {
        e.findtext("s:name", None, NAMES): int(e.findtext("s:addressOffset", None, NAMES), 16)
        for e in root.findall(".//s:register", NAMES)
    }
    assert registers == {name: register.offset for name, register in regmap.REGISTERS.items()}


@pytest.mark.parametrize(
    "family, script, pins",
    [
        ("xc7", "pynq_z2.tcl", ("M_AXI_GP0", "S_AXI_HP0", "IRQ_F2P")),
        ("xcup", "kv260.tcl", ("M_AXI_HPM0_FPD", "S_AXI_HP0_FPD", "pl_ps_irq0")),
    ],
)
def test_example_design_runs_in_tcl(tmp_path, monkeypatch, family, script, pins):
    monkeypatch.setattr("hiddenfold.gen.package.generate", lambda target, out: out.mkdir())
    package(replace(TARGET, family=family, name="mine"), tmp_path)
    calls = run_tcl(tmp_path / script)
    text = "\n".join(calls)
    # The newest version, not the first in the alphabet.
    assert "-vlnv hiddenfold:ip:hiddenfold:1.10 core" in text
    assert "CONFIG" in text and " 125" in text
    registers, memory, interrupt = pins
    for first, second in (
        (f"ps/{registers}", "registers/S00_AXI"),
        ("registers/M00_AXI", "core/s_axi"),
        ("core/m_axi", "memory/S00_AXI"),
        ("memory/M00_AXI", f"ps/{memory}"),
    ):
        pair = f"<get_bd_intf_pins {first}> <get_bd_intf_pins {second}>"
        assert f"connect_bd_intf_net {pair}" in calls
    assert f"connect_bd_net <get_bd_pins core/irq> <get_bd_pins ps/{interrupt}>" in calls
    for pin in ("aclk", "aresetn"):
        assert any(call.endswith(f"<get_bd_pins core/{pin}>") for call in calls), pin
    assert [call.split()[0] for call in calls[-4:]] == [
        "file",
        "file",
        "get_timing_paths",
        "get_timing_paths",
    ]
    with pytest.raises(tkinter.TclError, match=r"timing is not met: setup slack -0\.125 ns"):
        run_tcl(tmp_path / script, slack=-0.125)


def test_a_folder_of_another_family_is_taken_over(tmp_path, monkeypatch):
    monkeypatch.setattr("hiddenfold.gen.package.generate", lambda *_: None)
    package(replace(TARGET, family="xcup"), tmp_path)
    assert (tmp_path / "kv260.tcl").exists()
    package(TARGET, tmp_path)
    assert (tmp_path / "pynq_z2.tcl").exists() and not (tmp_path / "kv260.tcl").exists()

    def fail(*_):
        raise OSError("no room")

    monkeypatch.setattr("hiddenfold.gen.package.generate", fail)
    with pytest.raises(OSError, match="no room"):
        package(TARGET, tmp_path)
    assert not (tmp_path / "component.xml").exists()  # what is there is no IP any more


def test_package_script_runs_in_tcl(folder):
    calls = run_tcl(folder / "package_ip.tcl")
    assert f"ipx::open_core {folder}/component.xml" in calls
    assert calls[-1] == "close_project"


def test_yosys_reads_exactly_these_files(folder):
    run_yosys(
        "read_verilog -lib +/xilinx/cells_sim.v; read_verilog hdl/hiddenfold.v; "
        "hierarchy -check -top hiddenfold; proc; check -assert",
        cwd=folder,
    )


@pytest.mark.parametrize("family", ["sim", "ecp5"])
def test_other_families_are_refused(tmp_path, family):
    with pytest.raises(ValueError, match=f"family must be one of xc7, xcup .*, not '{family}'"):
        package(replace(TARGET, family=family), tmp_path)
