"""Where a host of the spec is, and what its agent is told of it."""

from dataclasses import dataclass
from pathlib import Path

from pipeline.wire.tls import TlsFiles


@dataclass(frozen=True, slots=True)
class HostPlace:
    """A host of the spec: its name, the address for links, and the Ray node it is (None: this one)."""

    name: str
    address: str
    node: str | None
    tls: TlsFiles | None
    #: Declares accelerators that its agent emulates.
    devices: Path | None = None
