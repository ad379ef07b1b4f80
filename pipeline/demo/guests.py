"""A demo's guests: the command lines of both their QEMUs, booting the source, waiting until it is ready.

The source is started by the demo, the destination by the agent through the `prepare` command of the spec. Both have
the same command line but for what makes one a destination: -S and -incoming defer. Ending them is `demo.removal`'s.
"""

import mmap
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.demo.guest import GuestParameters, boot_image, is_ready
from pipeline.demo.place import DemoPlace
from pipeline.demo.qemu_binary import QemuBinary
from pipeline.demo.removal import PID_SUFFIX, cleanup_command
from pipeline.errors import KuakaError, one_line

#: A host that fills guests' memory slower than this is taken to have stopped.
_SLOWEST_FILL_BYTES_S = 10 << 20
_BOOT_TIMEOUT_S = 30.0
_READY_POLL_S = 0.02
_SHOWN_CHARACTERS = 400


@dataclass(frozen=True, slots=True)
class End:
    """One end of a guest: its QEMU and its files."""

    qemu: QemuBinary
    ram: Path
    #: For kuaka, and at the destination a second one for the demo.
    qmp: Path
    own_qmp: Path | None
    pid_file: Path


@dataclass(frozen=True, slots=True)
class DemoGuest:
    """A guest with both ends; nothing is started by making one."""

    name: str
    number: int
    parameters: GuestParameters
    machine: str
    disk: Path
    source: End
    destination: End

    def source_command(self) -> tuple[str, ...]:
        """What runs the guest."""
        return self._command(self.source)

    def prepare(self) -> tuple[str, ...]:
        """What starts its destination; returns when that can be reached, or leaves no process."""
        return (*self._command(self.destination), "-S", "-incoming", "defer", "-daemonize")

    def cleanup(self) -> tuple[str, ...]:
        """What ends its destination."""
        end = self.destination
        files = (end.ram, end.qmp, *((end.own_qmp,) if end.own_qmp else ()))
        return cleanup_command(end.pid_file, *files)

    def _command(self, end: End) -> tuple[str, ...]:
        size = self.parameters.memory_bytes
        sockets = [path for path in (end.qmp, end.own_qmp) if path is not None]
        return (
            str(end.qemu.path),
            *("-name", self.name, "-uuid", f"00000000-0000-4000-8000-{self.number:012d}"),
            *("-accel", "tcg", "-machine", f"{self.machine},memory-backend=ram", "-m", f"{size >> 10}K"),
            *("-object", f"memory-backend-file,id=ram,share=on,size={size},mem-path={_value(end.ram)}"),
            *("-nodefaults", "-display", "none", "-no-reboot"),
            *("-drive", f"file={_value(self.disk)},format=raw,if=ide,file.locking=off"),
            *(word for path in sockets for word in ("-qmp", f"unix:{_value(path)},server=on,wait=off")),
            *("-pidfile", str(end.pid_file)),
        )


class RunningSource:
    """A guest's source QEMU, a child of this process, with its RAM in sight."""

    def __init__(self, guest: DemoGuest) -> None:
        """Start it. Raises `KuakaError`."""
        self.guest = guest
        guest.disk.write_bytes(boot_image(guest.parameters))
        self.ram = _make_ram(guest.source.ram, guest.parameters.memory_bytes)
        self._words = guest.source.pid_file.with_suffix(".log")
        try:
            with self._words.open("wb") as words:
                self._process = subprocess.Popen(
                    guest.source_command(),
                    stdin=subprocess.DEVNULL,
                    stdout=words,
                    stderr=words,
                    # Ctrl-C is for the demo: a guest that is just migrating must not end before it is told to.
                    start_new_session=True,
                )
        except OSError as error:
            raise KuakaError(f"{guest.name}: cannot run {guest.source.qemu.path}: {error.strerror}") from None

    def ready(self) -> bool:
        """Whether the guest has filled its memory. Raises `KuakaError` when it never will."""
        code = self._process.poll()
        if code is not None:
            words = one_line(self._words.read_text(errors="replace")[-_SHOWN_CHARACTERS:]).strip()
            raise KuakaError(f"{self.guest.name}: QEMU ended with code {code}: {words or 'it said nothing'}")
        return is_ready(self.ram)

    def end(self) -> None:
        """End its QEMU."""
        self._process.kill()
        self._process.wait()


def make_guest(
    number: int,
    parameters: GuestParameters,
    place: DemoPlace,
    source: QemuBinary,
    destination: QemuBinary,
    machine: str,
) -> DemoGuest:
    """The guest of this number, its files in `place`."""

    def end(side: str, qemu: QemuBinary, own_qmp: Path | None) -> End:
        sockets = place.sockets
        return End(
            qemu,
            place.ram / f"{side}-{number}",
            sockets / f"{side}-{number}.qmp",
            own_qmp,
            sockets / f"{side}-{number}{PID_SUFFIX}",
        )

    return DemoGuest(
        f"demo-{number}",
        number,
        parameters,
        machine,
        place.ram / f"disk-{number}",
        end("source", source, None),
        end("destination", destination, place.sockets / f"destination-{number}.own"),
    )


def wait_until_ready(sources: Sequence[RunningSource], say: Callable[[str], None]) -> None:
    """Wait until every guest has filled its memory. Raises `KuakaError` when one does not."""
    ram_bytes = sum(source.guest.parameters.memory_bytes for source in sources)
    deadline_s = time.monotonic() + _BOOT_TIMEOUT_S + ram_bytes / _SLOWEST_FILL_BYTES_S
    waiting = list(sources)
    while waiting := [source for source in waiting if not source.ready()]:
        if time.monotonic() > deadline_s:
            names = ", ".join(source.guest.name for source in waiting)
            raise KuakaError(f"{names}: booted and not ready in time: is this machine busy with something else?")
        time.sleep(_READY_POLL_S)
    say(f"{len(sources)} guests are ready")


def map_ram(path: Path) -> mmap.mmap:
    """A RAM file to look at. Raises `KuakaError`."""
    try:
        with path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
    except (OSError, ValueError) as error:
        raise KuakaError(f"cannot look at guest memory {path}: {error}") from None


def _make_ram(path: Path, size_bytes: int) -> mmap.mmap:
    with path.open("xb") as file:
        file.truncate(size_bytes)
    return map_ram(path)


def _value(path: Path) -> str:
    # QEMU's options end at a comma; a double one is a comma.
    return str(path).replace(",", ",,")
