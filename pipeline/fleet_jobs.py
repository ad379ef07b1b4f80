"""What a worker process is told to do: plain data, sent as JSON over its control socket with at most one descriptor.

The gateways make jobs and the worker runs them; neither knows the other. A job is one channel's work. Control sockets
are of this host and this user only, so a job is trusted to be well-meant, and still parsed by type.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline.codecs.codec import CodecId
from pipeline.offload import Offload, decode_offload
from pipeline.wire.handshake import Role
from pipeline.wire.opening import LinkTerms
from pipeline.wire.tls import TlsFiles


@dataclass(frozen=True, slots=True)
class MultifdSourceJob:
    """Read a source QEMU's channel (the descriptor) and open a link for it."""

    terms: LinkTerms
    #: The 64 bytes that QEMU opened the channel with, hexadecimal.
    init: str
    offload: Offload | None = None


@dataclass(frozen=True, slots=True)
class MultifdSinkJob:
    """Serve an accepted link (the descriptor) into the destination QEMU that listens at `qemu_socket`."""

    terms: LinkTerms
    qemu_socket: str
    native_zero: bool
    offload: Offload | None = None


@dataclass(frozen=True, slots=True)
class ImageSourceJob:
    """Send this channel's share of an image: extents channel, channel + channels, ... of `extent_bytes` each."""

    terms: LinkTerms
    path: str
    size_bytes: int
    modified_ns: int
    extent_bytes: int
    offload: Offload | None = None


@dataclass(frozen=True, slots=True)
class ImageSinkJob:
    """Serve an accepted link (the descriptor) into the partial image at `path`."""

    terms: LinkTerms
    path: str
    size_bytes: int
    extent_bytes: int
    #: Whether the file had contents before, so that zero pages must be written.
    reused: bool
    offload: Offload | None = None


Job = MultifdSourceJob | MultifdSinkJob | ImageSourceJob | ImageSinkJob
_JOBS: dict[str, type[Job]] = {
    job.__name__: job for job in (MultifdSourceJob, MultifdSinkJob, ImageSourceJob, ImageSinkJob)
}


def encode_job(job: Job) -> dict[str, Any]:
    """The job as JSON-ready fields."""
    fields = asdict(job)
    tls = job.terms.tls
    fields["terms"]["tls"] = [str(tls.ca), str(tls.certificate), str(tls.key)] if tls else None
    return {"job": type(job).__name__, **fields}


def decode_job(fields: dict[str, Any]) -> Job:
    """The job back from its fields; raises KeyError, TypeError or ValueError for fields that are not a job's."""
    fields = dict(fields)
    kind = _JOBS[fields.pop("job")]
    terms = dict(fields.pop("terms"))
    terms["role"], terms["codec"] = Role(terms["role"]), CodecId(terms["codec"])
    terms["tls"] = TlsFiles(*(Path(path) for path in terms["tls"])) if terms["tls"] else None
    offload = decode_offload(fields.pop("offload"))
    return kind(terms=LinkTerms(**terms), offload=offload, **fields)


def job_key(job: Job) -> str:
    """Names one end of one link of one session; starts with the session."""
    return f"{job.terms.session}/{type(job).__name__}/{job.terms.channel}"
