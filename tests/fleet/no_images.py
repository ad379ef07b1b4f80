"""What hosts of tests about guests have for images: nothing that may be called."""

from typing import Any


class NoImages:
    """A part of a `FleetHost` that has guests only."""

    async def remove_partial(self, path: str, session: str) -> bool:
        raise AssertionError("not an image")

    async def inspect_image(self, path: str) -> Any:
        raise AssertionError("not an image")

    async def prepare_image(self, order: Any) -> Any:
        raise AssertionError("not an image")

    async def start_image(self, order: Any) -> None:
        raise AssertionError("not an image")

    async def await_image(self, session_id: str) -> Any:
        raise AssertionError("not an image")

    async def commit_image(self, session_id: str, digest: bytes, mode: int) -> None:
        raise AssertionError("not an image")

    async def abort_image(self, session_id: str) -> None:
        raise AssertionError("not an image")
