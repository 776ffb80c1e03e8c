# SPDX-License-Identifier: Apache-2.0
"""The embedded simulator with what only verification needs: faults of single beats, mutants."""

import ctypes
from collections.abc import Sequence
from pathlib import Path

from hiddenfold.sw.driver.device import DeviceError
from hiddenfold.sw.driver.rtl import ACCESS_CYCLES, FAULTS, RtlDevice


class ProbeDevice(RtlDevice):
    """A simulated accelerator whose memory fails on demand, in a beat or for a while."""

    def __init__(self, library: Path, **options):
        """Make an instance of a library; ``options`` are those of :class:`RtlDevice`."""
        super().__init__(library, **options)
        handle, u32, u64 = ctypes.c_void_p, ctypes.c_uint32, ctypes.c_uint64
        for name, result, *arguments in (
            ("hf_add_beat_fault", None, handle, u64, u32, u64, u32),
            ("hf_fault_address", u64, handle),
            ("hf_began_within_beat", u32, handle),
            (
                "hf_access",
                u32,
                handle,
                u32,
                *(ctypes.POINTER(u32),) * 2,
                u32,
                ctypes.POINTER(u32),
                u32,
            ),
            ("hf_hold", None, handle, u64, u64),
            ("hf_select_mutant", u32, handle, u32),
            ("hf_write_coverage", u32, handle, ctypes.c_char_p),
            ("hf_write_latency", None, handle, u32),
            ("hf_write_strobed", u32, handle, u32, u32, u32, u32),
        ):
            function = getattr(self._library, name)
            function.restype, function.argtypes = result, arguments

    def fault_beat(self, number: int, answer: str = "", *, read: bool, flip: int = 0) -> None:
        """Let the ``number``-th beat from now on have ``answer`` (a key of ``FAULTS``).

        ``flip`` inverts bits of each 64-bit word of a read beat. :meth:`clear_faults` undoes it.
        """
        code = FAULTS[answer] if answer else 0
        self._library.hf_add_beat_fault(self._open_handle(), number, code, flip, read)

    @property
    def fault_address(self) -> int:
        """Address of the beat that :meth:`fault_beat` has hit; 0 before."""
        return self._library.hf_fault_address(self._open_handle())

    def began_within_beat(self) -> bool:
        """Whether a burst has begun within a beat since the last call."""
        return bool(self._library.hf_began_within_beat(self._open_handle()))

    def hold(self, cycles: int, *, after: int = 0) -> None:
        """Let the memory take and give nothing for ``cycles`` cycles, ``after`` cycles from now."""
        begin = self.cycles + after
        self._library.hf_hold(self._open_handle(), begin, begin + cycles)

    def answer_writes_after(self, cycles: int) -> None:
        """Answer write bursts so many cycles after their last beat; 4 at the beginning."""
        self._library.hf_write_latency(self._open_handle(), cycles)

    def select_mutant(self, number: int) -> None:
        """Switch to a mutant of a library that has them; 0 is the design itself."""
        if not self._library.hf_select_mutant(self._open_handle(), number):
            raise DeviceError("this simulator was built without mutants")

    def write_coverage(self, path: Path) -> None:
        """Write what has been covered since the device was made."""
        if not self._library.hf_write_coverage(self._open_handle(), str(path).encode()):
            raise DeviceError("this simulator was built without coverage")

    def write_strobed(self, offset: int, value: int, strobe: int) -> None:
        """Write the bytes of a register that ``strobe`` selects."""
        answer = self._library.hf_write_strobed(
            self._open_handle(), offset, value, strobe, ACCESS_CYCLES
        )
        self._check_answer("write", offset, answer)

    def access_together(
        self,
        offsets: Sequence[int],
        values: Sequence[int] = (),
        *,
        address: int = 0,
        data: int = 0,
        answer: int = 0,
    ) -> list[int]:
        """Read registers, or write ``values``, without waiting for the answers in between.

        The first ``address`` and the first ``data`` come after so many cycles; each ``answer`` is
        kept waiting so long.
        """
        words, number = ctypes.c_uint32 * len(offsets), len(offsets)
        found = words(*values)
        code = self._library.hf_access(
            self._open_handle(),
            bool(values),
            words(*offsets),
            found,
            number,
            (ctypes.c_uint32 * 3)(address, data, answer),
            ACCESS_CYCLES,
        )
        self._check_answer("write" if values else "read", offsets[0], code)
        return list(found)
