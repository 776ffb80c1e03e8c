# SPDX-License-Identifier: Apache-2.0
"""Commands on the hardware of a target, and programs for it."""

import argparse
import signal
from pathlib import Path
from typing import Any

from hiddenfold.sw.commands.common import (
    Outcome,
    add_batch,
    add_command,
    add_target,
    at_least,
    format_bytes,
    positive,
)
from hiddenfold.sw.progress import progress_line

__all__ = ["register"]


def register(commands: Any) -> None:
    """Add the commands of this module."""
    parser = add_command(
        commands,
        "generate",
        generate,
        "write the Verilog of a target",
        example="hiddenfold generate --target ulx3s-85f -o build/ulx3s",
        detail="With it come the register map (JSON, C header, Markdown), a driver in C and a "
        "manifest.",
    )
    add_target(parser)
    parser.add_argument("-o", "--output", metavar="DIR", type=Path, required=True)
    parser.add_argument(
        "--portable",
        action="store_true",
        help="no vendor cells in the array: larger, for simulation and for other families",
    )
    parser.add_argument(
        "--flash",
        action="store_true",
        help="also hiddenfold_flash.v: with a UART and a serial flash, for a board without DRAM",
    )

    parser = add_command(
        commands,
        "flash",
        flash,
        "write programs as the contents of a board's flash",
        example="hiddenfold flash net.hfp -o flash.bin",
        detail="For boards without DRAM (generate --flash): write it to the flash from 2 MiB on.",
    )
    parser.add_argument("programs", metavar="P.hfp", type=Path, nargs="+")
    parser.add_argument("-o", "--output", metavar="FILE", type=Path, required=True)

    parser = add_command(
        commands,
        "package",
        package,
        "write an IP folder for Vivado",
        example="hiddenfold package --target zynq-7020 -o build/ip",
        detail="IP-XACT with AXI interfaces, clock and reset; the Verilog and constraints; Tcl "
        "scripts with an example design for the PYNQ-Z2 (family xc7) or the KV260 (xcup).",
    )
    add_target(parser)
    parser.add_argument("-o", "--output", metavar="DIR", type=Path, required=True)

    parser = add_command(
        commands,
        "compile",
        compile_program,
        "compile a model for a target",
        example="hiddenfold compile models/hfn-cifar100.hfn --target ulx3s-85f -o net.hfp",
        detail="A layer that the target cannot run is refused by name, with the remedy.",
    )
    parser.add_argument("model", metavar="M.hfn", type=Path)
    add_target(parser)
    add_batch(parser)
    parser.add_argument(
        "--beat-interval",
        metavar="N",
        type=at_least(1),
        default=1,
        help="predict for memory that delivers a beat every N cycles (default: 1)",
    )
    parser.add_argument("-o", "--output", metavar="P.hfp", type=Path, required=True)

    parser = add_command(
        commands,
        "synth",
        synth,
        "report the resources of a target after synthesis",
        example="hiddenfold synth --target ulx3s-85f --family ecp5 --top array",
        detail="Runs Yosys, without place and route; minutes for a large target.",
    )
    add_target(parser)
    parser.add_argument("--family", choices=("ecp5", "xc7"), required=True)
    parser.add_argument(
        "--top",
        choices=("array", "core"),
        default="core",
        help="the masked array alone or everything (default: core)",
    )

    parser = add_command(
        commands,
        "build",
        build,
        "make the bitstream of a target for a board",
        example="hiddenfold build --target ulx3s-85f -o build/ulx3s",
        detail="Runs Yosys, nextpnr-ecp5 and ecppack; half an hour or more for ulx3s-85f. What is "
        "done stays in DIR: a build that was interrupted goes on from there. A clock that is not "
        "reached becomes slower in the bitstream. Exit code 1 when the wanted clock, or timing "
        "elsewhere, is not met.",
    )
    add_target(parser)
    parser.add_argument(
        "-o", "--output", metavar="DIR", type=Path, help="default: build/BOARD-TARGET"
    )
    parser.add_argument("--board", default="ulx3s", help="the board (default: ulx3s)")
    parser.add_argument(
        "--clock", metavar="MHZ", type=positive, help="the accelerator's (default: the target's)"
    )
    parser.add_argument(
        "--seed",
        metavar="S",
        type=at_least(0),
        default=1,
        help="start of the placement (default: 1)",
    )


def generate(args: argparse.Namespace) -> Outcome:
    """Run ``hiddenfold generate``."""
    from hiddenfold.gen.emit import generate as emit
    from hiddenfold.gen.target import Target

    target = Target.load(args.target)
    manifest = emit(target, args.output, portable=args.portable, flash=args.flash)
    data = {key: manifest[key] for key in GENERATE_FIELDS}
    text = (
        f"{target.name}: {target.rows} rows x {target.lanes} lanes x {target.planes} planes, "
        f"{target.macs_per_cycle:g} 8-bit multiply-accumulates a cycle\nwrote {data['verilog']}"
    )
    return Outcome(data, text)


def flash(args: argparse.Namespace) -> Outcome:
    """Run ``hiddenfold flash``."""
    from hiddenfold.sw.driver.flash_store import FLASH_BYTES, PROGRAMS_AT, FlashStore
    from hiddenfold.sw.driver.resident import store_image
    from hiddenfold.sw.files import write_atomically
    from hiddenfold.sw.program import Program

    programs = [Program.load(path) for path in args.programs]
    for program in programs:
        if program.target_id != programs[0].target_id:
            raise ValueError(
                f"the programs of a flash must be for one target, {programs[0].target!r} as "
                f"{programs[0].model!r}, not {program.target!r} as {program.model!r}"
            )
    image = store_image(
        [program.memory for program in programs],
        unit=FlashStore.unit,
        first=FlashStore.first,
        limit=FLASH_BYTES - PROGRAMS_AT,
    )
    write_atomically(args.output, image)
    names = ", ".join(program.model for program in programs)
    return Outcome(
        {"flash": str(args.output), "programs": len(programs), "bytes": len(image)},
        f"wrote {args.output}: {names}, {format_bytes(len(image))}",
    )


def package(args: argparse.Namespace) -> Outcome:
    """Run ``hiddenfold package``."""
    from hiddenfold.gen.package import package as write
    from hiddenfold.gen.target import Target

    target = Target.load(args.target)
    files = [str(path) for path in write(target, args.output)]
    text = "wrote " + "\n      ".join(files)
    return Outcome({"target": target.name, "files": files}, text)


GENERATE_FIELDS = ("target", "verilog", "rows", "lanes", "planes", "macs_per_cycle", "address_map")
COMPILE_FIELDS = (
    "instructions",
    "mask_bytes",
    "affine_bytes",
    "total_bytes",
    "predicted_cycles",
    "ideal_cycles",
    "predicted_bytes_read",
    "predicted_bytes_written",
)


def compile_program(args: argparse.Namespace) -> Outcome:
    """Run ``hiddenfold compile``."""
    from hiddenfold.gen.bus import Memory
    from hiddenfold.gen.compile import compile_model
    from hiddenfold.gen.target import Target
    from hiddenfold.sw.model import Model

    target = Target.load(args.target)
    external = Memory(interval=args.beat_interval)
    program = compile_model(Model.load(args.model), target, batch=args.batch, external=external)
    program.save(args.output)
    data = {key: getattr(program, key) for key in COMPILE_FIELDS}
    cycles = program.predicted_cycles
    text = (
        f"wrote {args.output}: {program.instructions} instructions, masks "
        f"{format_bytes(program.mask_bytes)}, affine tables {format_bytes(program.affine_bytes)}\n"
        f"predicted: {cycles:,} cycles a picture ({target.clock_mhz * 1e6 / cycles:.1f} a second "
        f"at {target.clock_mhz:g} MHz), utilization {program.ideal_cycles / cycles:.2f}, "
        f"{format_bytes(program.predicted_bytes_read)} read, "
        f"{format_bytes(program.predicted_bytes_written)} written"
    )
    if program.predicted_bytes_spilled:
        text += (
            f"\nactivations that do not fit on chip: "
            f"{format_bytes(program.predicted_bytes_spilled)} of this, in "
            f"{format_bytes(program.scratch_bytes)} of external memory"
        )
    return Outcome(data, text)


def synth(args: argparse.Namespace) -> Outcome:
    """Run ``hiddenfold synth``."""
    from hiddenfold.gen.synth import synthesize
    from hiddenfold.gen.target import Target

    data = synthesize(Target.load(args.target), args.family, args.top)
    kind = {"ecp5": "LUT4", "xc7": "LUT6"}[args.family]
    text = (
        f"{args.target}, {args.top} on {args.family}: {data['lut']:,} {kind}, "
        f"{data['ff']:,} flip-flops, {data['carry']:,} carry cells, {data['bram']} block RAMs, "
        f"{data['dsp']} DSPs\n"
        f"{data['macs_per_cycle']:g} 8-bit multiply-accumulates a cycle, "
        f"{data['lut_per_mac']:.1f} {kind} each"
    )
    return Outcome(data, text)


def build(args: argparse.Namespace) -> Outcome:
    """Run ``hiddenfold build``."""
    from hiddenfold.gen.build import build as make
    from hiddenfold.gen.target import Target
    from hiddenfold.gen.timing import summary

    target = Target.load(args.target)
    folder = args.output or Path("build", f"{args.board}-{target.name}")
    # As Ctrl-C, so that the tool that is at work ends as well.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with progress_line() as progress:
        data = make(
            target,
            folder,
            board=args.board,
            clock_mhz=args.clock,
            seed=args.seed,
            progress=progress,
        )
    met = data["timing_met"] and data["clock_mhz"] >= data["wanted_mhz"]
    return Outcome(data, summary(data), int(not met))
