# SPDX-License-Identifier: Apache-2.0
"""IP-XACT description (IEEE 1685-2009, the edition that Vivado reads) of a target's Verilog.

Interfaces are those of Xilinx's bus definitions: AXI4-Lite slave with the registers as its memory
map, AXI4 master, clock with its association, reset, interrupt.
"""

from __future__ import annotations

import importlib.metadata
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Sequence

from hiddenfold.gen import ports as table
from hiddenfold.gen.emit import TOP
from hiddenfold.gen.ports import Port
from hiddenfold.gen.target import Target
from hiddenfold.hw import regmap

__all__ = ["LIBRARY", "VENDOR", "component"]

VENDOR, LIBRARY = "hiddenfold", "ip"
SPIRIT = "http://www.spiritconsortium.org/XMLSchema/SPIRIT/1685-2009"
XILINX = "http://www.xilinx.com"
#: Device families of Vivado for a target's family.
FAMILIES = {
    "xc7": ("artix7", "kintex7", "virtex7", "spartan7", "zynq"),
    "xcup": ("zynquplus", "kintexuplus", "virtexuplus", "artixuplus"),
}
#: What the registers' access is called here; writing 1 clears some bits.
_ACCESS = {"RO": "read-only", "RW": "read-write"}


def component(target: Target, verilog: str, constraints: str) -> str:
    """The text of `component.xml` for a Verilog file and a file of constraints beside it."""
    for prefix, uri in (("spirit", SPIRIT), ("xilinx", XILINX)):
        ET.register_namespace(prefix, uri)
    ports = table.ports(target)
    version = ".".join(importlib.metadata.version("hiddenfold").split(".")[:2])
    root = _tag("component")
    for name, text in zip(
        ("vendor", "library", "name", "version"), (VENDOR, LIBRARY, TOP, version), strict=True
    ):
        _put(root, name, text)
    _interfaces(_put(root, "busInterfaces"), ports, target)
    space = _put(_put(root, "addressSpaces"), "addressSpace")
    _put(space, "name", table.FULL)
    _put(space, "range", "4294967296", format="long")
    _put(space, "width", str(target.bus_bits), format="long")
    _memory_map(_put(root, "memoryMaps"))
    model = _put(root, "model")
    views = _put(model, "views")
    files = _put(root, "fileSets")
    for kind in ("synthesis", "simulation"):
        name = f"xilinx_anylanguage{'behavioral' if kind == 'simulation' else ''}{kind}"
        view = _put(views, "view")
        _put(view, "name", name)
        _put(view, "envIdentifier", f":vivado.xilinx.com:{kind}")
        _put(view, "language", "Verilog")
        _put(view, "modelName", TOP)
        _put(_put(view, "fileSetRef"), "localName", f"{name}_view_fileset")
        group = _put(files, "fileSet")
        _put(group, "name", f"{name}_view_fileset")
        _file(group, verilog, "verilogSource")
        if kind == "synthesis":
            # For the core alone only: in a design its clock is the design's.
            uses = ("implementation", "out_of_context", "synthesis")
            _file(group, constraints, "xdc", *(f"USED_IN_{use}" for use in uses))
    declared = _put(model, "ports")
    for port in ports:
        _port(declared, port)
    _put(root, "description", f"Hidden-Fold Network accelerator: {target.description}")
    parameters = _put(root, "parameters")
    _parameter(parameters, "Component_Name", f"{TOP}_0", "PARAM_VALUE.Component_Name")
    core = _put(_put(root, "vendorExtensions"), "coreExtensions", space=XILINX)
    families = _put(core, "supportedFamilies", space=XILINX)
    for family in FAMILIES[target.family]:
        _put(families, "family", family, space=XILINX).set(f"{{{XILINX}}}lifeCycle", "Beta")
    taxonomies = _put(core, "taxonomies", space=XILINX)
    _put(taxonomies, "taxonomy", "/UserIP", space=XILINX)
    _put(core, "displayName", f"Hiddenfold {target.name}", space=XILINX)
    _put(core, "coreRevision", "1", space=XILINX)
    ET.indent(root)
    return ET.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _interfaces(parent: ET.Element, ports: Sequence[Port], target: Target) -> None:
    slave: dict[str, object] = {"PROTOCOL": "AXI4LITE"}
    master: dict[str, object] = {
        "PROTOCOL": "AXI4",
        "DATA_WIDTH": target.bus_bits,
        "ADDR_WIDTH": 32,
        "SUPPORTS_NARROW_BURST": 0,
        "MAX_BURST_LENGTH": 256,
    }
    for name, mode, reference, settings in (
        (table.LITE, "slave", "memoryMapRef", slave),
        (table.FULL, "master", "addressSpaceRef", master),
    ):
        members = [(port.signal, port.name) for port in ports if port.interface == name]
        interface = _interface(parent, name, "interface", "aximm", members, settings)
        role = _tag(mode)
        _put(role, reference).set(f"{{{SPIRIT}}}{reference}", name)
        interface.insert(3, role)
    # No FREQ_HZ: a number here would have to be, to the hertz, what a design's PLL makes.
    clock: dict[str, object] = {
        "ASSOCIATED_BUSIF": f"{table.LITE}:{table.FULL}",
        "ASSOCIATED_RESET": table.RESET,
    }
    rest: tuple[tuple[str, str, str, dict[str, object]], ...] = (
        (table.CLOCK, "clock", "slave", clock),
        (table.RESET, "reset", "slave", {"POLARITY": "ACTIVE_LOW"}),
        ("irq", "interrupt", "master", {"SENSITIVITY": "LEVEL_HIGH"}),
    )
    for name, kind, mode, settings in rest:
        logical = {"clock": "CLK", "reset": "RST", "interrupt": "INTERRUPT"}[kind]
        interface = _interface(parent, name, "signal", kind, [(logical, name)], settings)
        interface.insert(3, _tag(mode))


def _interface(
    parent: ET.Element,
    name: str,
    library: str,
    bus: str,
    members: Iterable[tuple[str, str]],
    settings: dict[str, object],
) -> ET.Element:
    """A bus interface without its role, which belongs behind the first three children."""
    interface = _put(parent, "busInterface")
    _put(interface, "name", name)
    for tag, suffix in (("busType", ""), ("abstractionType", "_rtl")):
        reference = _put(interface, tag)
        for key, value in (
            ("vendor", "xilinx.com"),
            ("library", library),
            ("name", bus + suffix),
            ("version", "1.0"),
        ):
            reference.set(f"{{{SPIRIT}}}{key}", value)
    maps = _put(interface, "portMaps")
    for logical, physical in members:
        pair = _put(maps, "portMap")
        _put(_put(pair, "logicalPort"), "name", logical)
        _put(_put(pair, "physicalPort"), "name", physical)
    parameters = _put(interface, "parameters")
    for key, setting in settings.items():
        _parameter(parameters, key, str(setting), f"BUSIFPARAM_VALUE.{name.upper()}.{key}")
    return interface


def _memory_map(parent: ET.Element) -> None:
    memory = _put(parent, "memoryMap")
    _put(memory, "name", table.LITE)
    block = _put(memory, "addressBlock")
    _put(block, "name", "registers")
    _put(block, "baseAddress", "0", format="long")
    _put(block, "range", str(table.WINDOW), format="long")
    _put(block, "width", "32", format="long")
    _put(block, "usage", "register")
    for name, register in regmap.REGISTERS.items():
        entry = _put(block, "register")
        _put(entry, "name", name)
        _put(entry, "description", register.text)
        _put(entry, "addressOffset", hex(register.offset))
        _put(entry, "size", "64" if register.wide else "32", format="long")
        _put(entry, "access", _ACCESS.get(register.access, "read-write"))


def _port(parent: ET.Element, port: Port) -> None:
    entry = _put(parent, "port")
    _put(entry, "name", port.name)
    _put(entry, "description", port.meaning)
    wire = _put(entry, "wire")
    _put(wire, "direction", {"input": "in", "output": "out"}[port.direction])
    if port.width > 1:
        vector = _put(wire, "vector")
        _put(vector, "left", str(port.width - 1), format="long")
        _put(vector, "right", "0", format="long")


def _file(parent: ET.Element, name: str, kind: str, *uses: str) -> None:
    entry = _put(parent, "file")
    _put(entry, "name", name)
    _put(entry, "fileType" if kind == "verilogSource" else "userFileType", kind)
    for use in uses:
        _put(entry, "userFileType", use)


def _parameter(parent: ET.Element, name: str, value: str, identifier: str) -> None:
    entry = _put(parent, "parameter")
    _put(entry, "name", name)
    _put(entry, "value", value).set(f"{{{SPIRIT}}}id", identifier)


def _tag(name: str, space: str = SPIRIT) -> ET.Element:
    return ET.Element(f"{{{space}}}{name}")


def _put(
    parent: ET.Element, name: str, text: str = "", *, space: str = SPIRIT, format: str = ""
) -> ET.Element:
    element = ET.SubElement(parent, f"{{{space}}}{name}")
    element.text = text or None
    if format:
        element.set(f"{{{SPIRIT}}}format", format)
    return element
