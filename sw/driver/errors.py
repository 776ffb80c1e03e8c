# SPDX-License-Identifier: Apache-2.0
"""What the driver raises, and what each hardware error means to its user."""

from hiddenfold.hw.isa import Error

#: What to do about each error code (docs/spec.md section 9).
REMEDIES = {
    Error.OPCODE: "the program in memory is damaged or PROGRAM does not point to it: load it again",
    Error.INSTRUCTION_SIGNATURE: "the program in memory is damaged: load it again",
    Error.MASK_SIGNATURE: "the mask stream in memory is damaged: load the program again",
    Error.AFFINE_SIGNATURE: "the affine tables in memory are damaged: load the program again",
    Error.BUS_READ: "the memory answered a read with an error: check the addresses of the regions",
    Error.BUS_WRITE: "the memory answered a write with an error: check the address of the output",
    Error.WINDOW: "the program needs more memory than its regions have: check the sizes, or "
    "compile it for this target",
    Error.WATCHDOG: "the run took longer than allowed: check the memory's speed, or raise the "
    "watchdog",
    Error.TARGET: "compile the model for this accelerator's target",
    Error.LOOP: "the program is damaged: load it again",
    Error.ABORTED: "the run was aborted by the host; it can be started again",
    Error.FIELD: "the program has an instruction that this accelerator cannot execute: compile the "
    "model for its target",
}

#: Errors after which what is in memory is not to be trusted.
DAMAGED = frozenset(
    {
        Error.OPCODE,
        Error.INSTRUCTION_SIGNATURE,
        Error.MASK_SIGNATURE,
        Error.AFFINE_SIGNATURE,
        Error.LOOP,
        Error.FIELD,
    }
)


class AcceleratorError(RuntimeError):
    """A run or a load failed.

    Attributes
    ----------
    code : int
        Error code of docs/spec.md section 9, 0 if the accelerator itself reported none.
    pc : int or None
        Offset of the failed instruction in the program.
    instruction : str or None
        That instruction in words.
    registers : dict of str to int
        The registers after the failure; empty if they could not be read.
    """

    def __init__(
        self,
        message: str,
        *,
        code: int = 0,
        pc: int | None = None,
        instruction: str | None = None,
        registers: dict[str, int] | None = None,
    ):
        super().__init__(message)
        self.code = code
        self.pc = pc
        self.instruction = instruction
        self.registers = registers or {}


class AcceleratorTimeout(AcceleratorError):
    """The accelerator did not finish in time."""


def error_name(code: int) -> str:
    """Return the name of an error code, or "code N" for one that the specification lacks."""
    return Error(code).name if code in set(Error) else f"code {code}"
