"""What an emulated device computes is not the scheduler's business: whoever starts the process hands this in."""

from typing import Protocol


class Arithmetic(Protocol):
    """Real results for real bytes. Called for one descriptor at a time; none of it raises for what bytes contain."""

    def compress(self, data: memoryview) -> bytes:
        """The stream that holds `data`."""

    def decompress(self, stream: memoryview, capacity_bytes: int) -> bytes | None:
        """What `stream` holds; None where it is no stream, ends early or holds more than `capacity_bytes`."""

    def is_zero(self, data: memoryview) -> bool:
        """Whether all bytes are zero."""
