"""The demo guest as a disk image: its parameters, how they reach it, and what it says about itself.

The rule: the guest is `guest.bin` (assembled from `guest.S`), then the tables; nothing but the parameter block at the
end of `guest.bin` differs between guests. The block and the state page lie in the guest's low RAM, where a program
outside reads them.

Boot it as the first disk of an i440fx or q35 machine, e.g. `-machine pc-i440fx-7.2 -nodefaults -no-reboot -drive
file=guest.img,format=raw,if=ide,file.locking=off`. The destination of a migration needs the same drive line; nothing
is read from it any more. The guest waits in HLT between bursts, so a guest that dirties little costs its host little.
"""

import struct
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Buffer

from pipeline.demo.guest_tables import code_table, text_table
from pipeline.errors import KuakaError, UsageError
from pipeline.memory.pages import PAGE_BYTES, WORDS_PER_PAGE

#: The first page the guest fills; those before it hold the guest, its state and the firmware, and never change but
#: for STEPS.
FIRST_PAGE = 256
#: Add this to the RAM of a guest that a QEMU older than 9.0 migrates without KVM. Where RAM is a multiple of 256 KiB,
#: such a source looks at its dirty bitmap by a fast path that forgets the TLB (fixed in physmem by "Fix migration dirty
#: bitmap coherency with TCG memory access"), so pages dirtied again after a round are lost, QEMU to QEMU as well: at
#: 70 MB/s 7.2 lost some in 18 of 18 migrations, and with this much more in none.
ODD_MEMORY_BYTES = 64 << 10
#: Physical address of the state page: words MAGIC, READY, STEPS.
STATE_PAGE = 0x12
READY_WORD = 1
STEPS_WORD = 2
#: Where the interrupt that ends a wait leaves the CPU's flags; the rest of that frame never changes.
INTERRUPT_PAGE = 0x13
FLAGS_WORD = 509
#: The one flag that depends on the QEMU: 7.2 pushes it as 0, 10.0 as 1.
RESUME_FLAG = 1 << 16

#: A whole RAM block in bytes or words: a mapping, bytes or an array.
Ram: TypeAlias = Buffer | NDArray[np.uint8] | NDArray[np.uint64]

_MAGIC = b"kuakaRAM"
_LOAD_ADDRESS = 0x7C00
_CODE_BYTES = 0x1400
_PARAMETERS = struct.Struct("<8s9Q")
_PARAMETERS_OFFSET = _CODE_BYTES - _PARAMETERS.size
_READY, _WRONG_MEMORY = 1, 2

#: q35's AHCI controller does not boot a disk of less (measured with QEMU 7.2: 515584 bytes do not boot, these do).
_CYLINDER_BYTES = 16 * 63 * 512

_MIN_MEMORY_BYTES = 32 << 20
_MAX_MEMORY_BYTES = 60 << 30
#: CMOS counts RAM in these units.
_MEMORY_GRAIN_BYTES = 64 << 10
_MAX_RATE_BYTES_S = 8 << 30
_CLOCK_HZ = 3_579_545
#: A guest that was held up catches up with the work of this long, and forgets the rest.
_CATCH_UP_S = 0.1
#: Shares of the three kinds among pages that are not zero: 25, 20 and 15 of 60.
_TEXT_SHARE, _CODE_SHARE = 25 / 60, 20 / 60


@dataclass(frozen=True, slots=True)
class GuestParameters:
    """What the guest does. Errors: UsageError where a value is out of range.

    `memory_bytes` is all of the guest's RAM (`-m`), a multiple of 64 KiB from 32 MiB to 60 GiB. `normal_page_ratio`
    percent of the filled pages are not zero. `dirty_rate_bytes_s` counts PAGE_BYTES for each step; 0 means that
    memory never changes. `working_set_bytes`: dirtying stays within the first so many bytes after 1 MiB; None means
    everywhere. Guests of different `seed` hold different memory.
    """

    memory_bytes: int
    normal_page_ratio: float = 60
    dirty_rate_bytes_s: int = 16 << 20
    working_set_bytes: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if not _MIN_MEMORY_BYTES <= self.memory_bytes <= _MAX_MEMORY_BYTES or self.memory_bytes % _MEMORY_GRAIN_BYTES:
            raise UsageError(
                f"--memory: a guest of {self.memory_bytes} bytes cannot be:"
                " give a multiple of 64 KiB between 32 MiB and 60 GiB"
            )
        if not 0 <= self.normal_page_ratio <= 100:
            raise UsageError(f"--normal-page-ratio {self.normal_page_ratio:g}: give a percentage from 0 to 100")
        if self.dirty_rate_bytes_s and not PAGE_BYTES <= self.dirty_rate_bytes_s <= _MAX_RATE_BYTES_S:
            raise UsageError(
                f"--dirty-rate: {self.dirty_rate_bytes_s} bytes/s cannot be: give 0, or between 4 KiB/s and 8 GiB/s"
            )
        if self.working_set_bytes is not None and self.working_set_bytes < PAGE_BYTES:
            raise UsageError(f"working set of {self.working_set_bytes} bytes: give at least one page of {PAGE_BYTES}")
        if not 0 <= self.seed < 2**32:
            raise UsageError(f"seed {self.seed}: give a number from 0 to 2**32 - 1")

    @property
    def block_pages(self) -> int:
        """Pages of the RAM block (QEMU's pc.ram), low RAM included."""
        return self.memory_bytes // PAGE_BYTES

    @property
    def working_set_pages(self) -> int:
        """Pages that dirtying may touch; they start at FIRST_PAGE."""
        usable = self.block_pages - FIRST_PAGE
        return usable if self.working_set_bytes is None else min(usable, self.working_set_bytes // PAGE_BYTES)

    @property
    def kind_thresholds(self) -> tuple[int, int, int]:
        """Upper bounds, of a page's upper 32 seed bits, for zero, text and code pages; what is left is random."""
        normal = self.normal_page_ratio / 100
        zero = 1 - normal
        bounds = (zero, zero + normal * _TEXT_SHARE, zero + normal * (_TEXT_SHARE + _CODE_SHARE))
        zero_below, text_below, code_below = (round(bound * 2**32) for bound in bounds)
        return zero_below, text_below, code_below

    @property
    def fill_seed(self) -> int:
        """Where the seeds of the pages' first contents start."""
        return (self.seed * 2 + 1) * 0xA0761D6478BD642F % 2**64

    @property
    def step_seed(self) -> int:
        """Where the seeds of the steps start."""
        return (self.seed * 2 + 2) * 0xE7037ED1A0B428DB % 2**64

    def encode(self) -> bytes:
        """The parameter block as the guest reads it (80 bytes)."""
        steps_s = self.dirty_rate_bytes_s / PAGE_BYTES
        credit_per_tick = max(1, round(steps_s * 2**32 / _CLOCK_HZ)) if steps_s else 0
        credit_limit = max(2**32, round(steps_s * _CATCH_UP_S * 2**32))
        return _PARAMETERS.pack(
            _MAGIC,
            self.block_pages,
            self.working_set_pages,
            *self.kind_thresholds,
            credit_per_tick,
            credit_limit,
            self.fill_seed,
            self.step_seed,
        )


@cache
def _code() -> bytes:
    code = resources.files("pipeline.demo").joinpath("guest.bin").read_bytes()
    assert len(code) == _CODE_BYTES, "guest.bin does not belong to this guest.py"
    return code


def boot_image(parameters: GuestParameters) -> bytes:
    """A raw disk image that boots into the guest (504 KiB)."""
    tables = text_table().tobytes() + code_table().tobytes()
    image = _code()[:_PARAMETERS_OFFSET] + parameters.encode() + tables
    return image.ljust(_CYLINDER_BYTES, b"\0")


def as_pages(ram: Ram) -> NDArray[np.uint64]:
    """`ram`, a whole RAM block, as (pages, 512) words; nothing is copied."""
    buffer = ram if isinstance(ram, np.ndarray) else memoryview(ram)
    return np.frombuffer(buffer, dtype=np.uint64).reshape(-1, WORDS_PER_PAGE)


def check_parameters(ram: Ram, parameters: GuestParameters) -> None:
    """Errors: KuakaError unless `ram` belongs to a guest that was booted with `parameters`."""
    low = as_pages(ram)[:FIRST_PAGE].tobytes()
    found = low[_LOAD_ADDRESS + _PARAMETERS_OFFSET : _LOAD_ADDRESS + _CODE_BYTES]
    if found[: len(_MAGIC)] != _MAGIC:
        raise KuakaError("this RAM is not a demo guest's: boot the image that `boot_image` makes")
    if found != parameters.encode():
        raise KuakaError("this RAM is of a demo guest with other parameters: compare with those it was booted with")


def is_ready(ram: Ram) -> bool:
    """Whether the guest has filled its memory and, unless its rate is 0, dirties it.

    Errors: KuakaError where the guest found another amount of RAM than its parameters say, so that it will never be
    ready.
    """
    state = as_pages(ram)[STATE_PAGE]
    if state[0] != int.from_bytes(_MAGIC, "little"):
        return False
    if state[READY_WORD] == _WRONG_MEMORY:
        raise KuakaError("the demo guest finds another amount of RAM than its parameters say: give QEMU's -m that size")
    return bool(state[READY_WORD] == _READY)


def read_steps(ram: Ram) -> int:
    """Steps the guest has completed."""
    return int(as_pages(ram)[STATE_PAGE, STEPS_WORD])
