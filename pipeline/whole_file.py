"""Writing a file that a user asked for: whoever reads it meets the old one or the new one, never a part."""

import contextlib
import os
from pathlib import Path

from pipeline.errors import KuakaError


def write_whole(path: Path, text: str, option: str, instead: str = "") -> None:
    """Give the file its new content in one step. `option` named it, or could have `instead`. Raises `KuakaError`.

    A link stays a link. A pipe or a device is written to, not replaced.
    """
    try:
        if path.exists() and not path.is_file():
            path.write_text(text, "utf-8")
            return
        target = path.resolve()
        new = target.with_name(f".{target.name}.{os.getpid()}")
        try:
            with new.open("w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            new.replace(target)
        finally:
            with contextlib.suppress(OSError):
                new.unlink()
    except OSError as error:
        raise KuakaError(f"{option} {path}: {error.strerror}: give a file that can be written{instead}") from None
