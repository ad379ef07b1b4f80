"""What the controller asks of the agents, and what they answer: plain data that crosses hosts."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace

from pipeline.codecs.codec import CodecId
from pipeline.fleet.commands import Command
from pipeline.memory.image_source import ImageFacts
from pipeline.offload import OffloadCounters
from pipeline.qemu.qmp import QemuFacts
from pipeline.shard import ShardCounters
from pipeline.wire.handshake import SESSION_BYTES


@dataclass(frozen=True, slots=True)
class TransferTerms:
    """How one attempt's bytes travel."""

    session: str
    channels: int
    codec: CodecId
    level: int | None
    downtime_limit_ms: int
    stall_timeout_s: float
    #: Cap on the migration's wire bytes per second; None: none.
    rate_bytes_s: int | None = None
    #: Who the accelerators count its work for, and its share among those of the same tenant.
    tenant: str = ""
    weight: int = 1
    #: Of each pool that it uses, promised at least and (0: no cap) allowed at most, device-ns per second.
    reservation_ns_s: int = 0
    cap_ns_s: int = 0

    def again(self) -> "TransferTerms":
        """The same for another attempt."""
        return replace(self, session=new_session())


def new_session() -> str:
    """Names one attempt, and nothing else ever."""
    return secrets.token_bytes(SESSION_BYTES).hex()


@dataclass(frozen=True, slots=True)
class DestinationOrder:
    """A destination guest to be made ready on this host."""

    vm: str
    qmp: str
    prepare: Command | None
    cleanup: "Cleanup"
    socket_user: str | None
    terms: TransferTerms
    #: It sends a SWITCHOVER_ACK, if its QEMU can: the source waits for one, or for its downtime ticket.
    acknowledges: bool = False


@dataclass(frozen=True, slots=True)
class SourceOrder:
    """A source guest to be migrated from this host, to the gateway at `address`:`port`."""

    vm: str
    qmp: str
    socket_user: str | None
    zero_page_detection: str | None
    terms: TransferTerms
    address: str
    port: int
    #: The destination sends a SWITCHOVER_ACK.
    acknowledged: bool = False
    #: QEMU may be told to slow the guest down.
    auto_converge: bool = False


@dataclass(frozen=True, slots=True)
class Cleanup:
    """All that is needed to remove an attempt's destination, also by another agent later."""

    vm: str
    session: str
    command: Command | None
    #: KUAKA_VM, KUAKA_SESSION, KUAKA_QMP, KUAKA_INCOMING: the same for prepare and cleanup.
    environment: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class DestinationReady:
    """A destination waits: where its links go, and what it is."""

    address: str
    port: int
    facts: QemuFacts


@dataclass(frozen=True, slots=True)
class ImageTargetOrder:
    """An image to be received on this host."""

    vm: str
    path: str
    reuse: str | None
    overwrite: bool
    facts: ImageFacts
    terms: TransferTerms


@dataclass(frozen=True, slots=True)
class ImageSourceOrder:
    """An image to be sent from this host to the host at `address`:`port`."""

    vm: str
    path: str
    facts: ImageFacts
    terms: TransferTerms
    address: str
    port: int


@dataclass(frozen=True, slots=True)
class ImageOutcome:
    """An image was sent: the digest that the target must have, and the counters."""

    digest: bytes
    counters: ShardCounters
    offload: OffloadCounters | None = None


def cleanup_of(vm: str, session: str, qmp: str, directory: str, command: Command | None) -> Cleanup:
    """What removes the destination of this attempt; `directory` is the destination host's own."""
    environment = {
        "KUAKA_VM": vm,
        "KUAKA_SESSION": session,
        "KUAKA_QMP": qmp,
        "KUAKA_INCOMING": f"{session_directory(directory, session)}/incoming",
    }
    return Cleanup(vm, session, command, environment)


def session_directory(directory: str, session: str) -> str:
    """Where a host keeps one session's sockets."""
    return f"{directory}/{session[:12]}"


@dataclass(frozen=True, slots=True)
class MigrationProgress:
    """How far a session has come at one host."""

    counters: ShardCounters
    error: str | None
    #: Memory to be moved at least once; 0 where this host does not know.
    total_bytes: int = 0
    #: The error is no more than that a connection was cut.
    only_cut: bool = False
    #: What accelerators had to do with it; None where there are none.
    offload: OffloadCounters | None = None
    #: How long the guest's stop was held back for its downtime ticket; None where none was asked for.
    ticket_wait_ms: float | None = None
