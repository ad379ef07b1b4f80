"""How the controller reaches a host: the same calls, be it an actor on another machine or an object in a test."""

from collections.abc import Sequence
from typing import Protocol

from pipeline.codecs.codec import CodecId
from pipeline.fleet.orders import (
    Cleanup,
    DestinationOrder,
    DestinationReady,
    ImageOutcome,
    ImageSourceOrder,
    ImageTargetOrder,
    MigrationProgress,
    SourceOrder,
)
from pipeline.memory.image_source import ImageFacts
from pipeline.qemu.qmp import QemuFacts
from pipeline.qemu.source_vm import SourceOutcome


class HostHandle(Protocol):
    """The calls of `fleet.host.Host` that a migration needs; see there. All raise `KuakaError`."""

    @property
    def name(self) -> str:
        """The host's name in the spec."""

    @property
    def directory(self) -> str:
        """The directory for sockets on that host."""

    async def clock_ns(self) -> int:
        """The host's real-time clock."""

    async def inspect_source(self, vm: str, qmp: str, session_id: str) -> QemuFacts:
        """Check a source."""

    async def takes_tickets(self, codec: CodecId) -> bool:
        """Whether guests that leave it with this codec wait for a downtime ticket."""

    async def prepare_destination(self, order: DestinationOrder) -> DestinationReady:
        """Make a destination ready."""

    async def start_source(self, order: SourceOrder, facts: QemuFacts) -> None:
        """Start a migration."""

    async def await_source(self, session_id: str) -> SourceOutcome:
        """Wait for its end."""

    async def keep_destination(self, session_id: str) -> None:
        """Leave a destination to the journal."""

    async def resume_destination(self, session_id: str) -> int:
        """Start the guest at the destination."""

    async def progress(self, session_ids: Sequence[str]) -> dict[str, MigrationProgress]:
        """How far sessions have come."""

    async def fail(self, session_id: str, reason: str) -> None:
        """Cut a session."""

    async def cancel_source(self, session_id: str) -> None:
        """Let a source give up."""

    async def resume_source(self, session_id: str) -> str:
        """Let a source guest run again."""

    async def finish_source(self, session_id: str) -> MigrationProgress:
        """Forget a source."""

    async def finish_destination(self, session_id: str) -> MigrationProgress:
        """Forget a destination."""

    async def inspect_image(self, path: str) -> ImageFacts:
        """Look at an image."""

    async def prepare_image(self, order: ImageTargetOrder) -> tuple[str, int]:
        """Make ready for an image."""

    async def start_image(self, order: ImageSourceOrder) -> None:
        """Start sending an image."""

    async def await_image(self, session_id: str) -> ImageOutcome:
        """Wait until it was sent."""

    async def commit_image(self, session_id: str, digest: bytes, mode: int) -> None:
        """Give it its name."""

    async def abort_image(self, session_id: str) -> None:
        """Give it up."""

    async def cleanup_destination(self, cleanup: Cleanup) -> None:
        """Remove a destination."""
