"""The guest memory that is moved: the demo guest's own, and samples of real guests where they lie beside the repo."""

import mmap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import zstandard

from benchmarks.qemu import Qemu
from pipeline.demo.guest import GuestParameters, boot_image, is_ready

#: 64 MiB samples of 1 GiB guests; they are repeated to the wanted size, further apart than any codec here looks back.
SAMPLES = Path(__file__).parents[2] / "shared" / "data"
_SAMPLE_FILES = {"redis": "guest-redis-0.ram.zst", "idle": "guest-idle.ram.zst"}
_READY_TIMEOUT_S = 120.0
_DIRTYING_S = 2.0
_DIRTY_BYTES_S = 64 << 20


def guest_names() -> list[str]:
    """The guests there are here."""
    return ["demo", *(name for name, file in _SAMPLE_FILES.items() if (SAMPLES / file).exists())]


def write_guest(name: str, path: Path, size_bytes: int) -> None:
    """Make `path` the RAM of that guest, stopped."""
    if name == "demo":
        _write_demo(path, size_bytes)
    else:
        _write_sample(SAMPLES / _SAMPLE_FILES[name], path, size_bytes)


@contextmanager
def demo_disk(folder: Path, parameters: GuestParameters) -> Iterator[tuple[str, ...]]:
    """QEMU's options that boot the demo guest."""
    disk = folder / "guest.img"
    disk.write_bytes(boot_image(parameters))
    try:
        yield ("-drive", f"file={disk},format=raw,if=ide,file.locking=off")
    finally:
        disk.unlink()


def await_ready(ram: Path) -> None:
    """Wait until a demo guest with this RAM file has filled its memory."""
    deadline = time.monotonic() + _READY_TIMEOUT_S
    with ram.open("r+b") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapping:
        while not _ready(mapping):
            if time.monotonic() > deadline:
                raise RuntimeError("the demo guest does not get ready")
            time.sleep(0.02)


def _ready(mapping: mmap.mmap) -> bool:
    # A copy, because a mapping that numpy still looks at cannot be closed.
    return is_ready(mapping[: 256 << 12])


def _write_demo(path: Path, size_bytes: int) -> None:
    parameters = GuestParameters(size_bytes, dirty_rate_bytes_s=_DIRTY_BYTES_S)
    with path.open("xb") as file:
        file.truncate(size_bytes)
    with demo_disk(path.parent, parameters) as options:
        memory = f"memory-backend-file,share=on,mem-path={path}"
        with Qemu(path.parent / "demo.qmp", size_bytes, memory, options) as qemu:
            await_ready(path)
            time.sleep(_DIRTYING_S)
            qemu.execute("stop")


def _write_sample(sample: Path, path: Path, size_bytes: int) -> None:
    data = zstandard.ZstdDecompressor().decompress(sample.read_bytes())
    with path.open("xb") as file:
        for at in range(0, size_bytes, len(data)):
            file.write(data[: size_bytes - at])
