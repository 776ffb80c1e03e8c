# SPDX-License-Identifier: Apache-2.0
"""An IP folder for Vivado: Verilog, IP-XACT, constraints, Tcl scripts with example designs."""

from __future__ import annotations

from pathlib import Path

from hiddenfold.gen.emit import TOP, generate
from hiddenfold.gen.ipxact import FAMILIES, LIBRARY, VENDOR, component
from hiddenfold.gen.ports import CLOCK
from hiddenfold.gen.target import Target
from hiddenfold.sw.files import write_atomically

__all__ = ["package"]

_SCRIPTS = Path(__file__).with_name("vivado")
#: Example design of a family.
_EXAMPLES = {"xc7": "pynq_z2.tcl", "xcup": "kv260.tcl"}
_CONSTRAINTS = "hiddenfold_ooc.xdc"
_COMPONENT = "component.xml"


def package(target: Target, out_dir: str | Path) -> list[Path]:
    """Write the folder and return its files, `component.xml` first.

    Raises `ValueError` for a target of a family that Vivado does not know.
    """
    if target.family not in FAMILIES:
        raise ValueError(
            f"Target {target.name!r}: family must be one of {', '.join(FAMILIES)} to be packaged "
            f"for Vivado, not {target.family!r}"
        )
    folder = Path(out_dir)
    # Last of all comes the file that makes the folder an IP.
    (folder / _COMPONENT).unlink(missing_ok=True)
    generate(target, folder / "hdl")
    verilog = f"hdl/{TOP}.v"
    settings = {
        "name": target.name,
        "vlnv": f"{VENDOR}:{LIBRARY}:{TOP}",
        "clock_mhz": f"{target.clock_mhz:g}",
        "bus_bits": str(target.bus_bits),
    }
    texts = {
        _COMPONENT: component(target, verilog, _CONSTRAINTS),
        _CONSTRAINTS: _constraints(target),
        "settings.tcl": "# SPDX-License-Identifier: Apache-2.0\n# Of the other scripts.\n"
        + "".join(f"set {key} {{{value}}}\n" for key, value in settings.items()),
    }
    for name in ("package_ip.tcl", _EXAMPLES[target.family], "block_design.tcl"):
        texts[name] = (_SCRIPTS / name).read_text(encoding="utf-8")
    for name in {*_EXAMPLES.values()} - set(texts):  # of a target of another family
        (folder / name).unlink(missing_ok=True)
    for name, text in reversed(texts.items()):
        write_atomically(folder / name, text.encode())
    return [*(folder / name for name in texts), folder / verilog]


def _constraints(target: Target) -> str:
    """The clock, for a synthesis of the core alone; a design gives it its real clock."""
    return (
        "# SPDX-License-Identifier: Apache-2.0\n"
        f"# {target.name}: one clock, all ports synchronous to it.\n"
        f"create_clock -name {CLOCK} -period {1000 / target.clock_mhz:.3f} [get_ports {CLOCK}]\n"
    )
