"""One directory of sysfs attributes, read as what it may be: made by an older kernel, by a newer one, or by an enemy.

The rule: a value is in its range, or it is None and there is a problem in words. An attribute that this kernel or this
device does not have (no such file, or a read that answers ENXIO, EOPNOTSUPP or the like) is None without a problem
where it is optional. Nothing is followed without a bound, waited for, or read past `MAX_ATTRIBUTE_BYTES`.
"""

import errno
import os
import re
import stat
from itertools import islice
from pathlib import Path

#: sysfs hands out one page at most.
MAX_ATTRIBUTE_BYTES = 4096
#: Entries of one directory that are looked at.
MAX_ENTRIES = 4096
#: Problems of one device that are kept: a tree of junk is told from a broken value by then.
MAX_PROBLEMS = 20
_MAX_SHOWN = 40
_ABSENT = frozenset({errno.ENOENT, errno.ENXIO, errno.EOPNOTSUPP, errno.ENODEV})
_WHOLE = re.compile(r"[+-]?[0-9]{1,20}|0[xX][0-9a-fA-F]{1,16}")


def read_bounded(path: Path, limit: int = MAX_ATTRIBUTE_BYTES) -> bytes:
    """The first `limit` bytes of a plain file. Raises OSError, also for what is not one: a pipe would be waited for."""
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise OSError(errno.EBADF, "is not a plain file")
        return os.read(handle, limit)
    finally:
        os.close(handle)


def printable(text: str, limit: int = _MAX_SHOWN) -> str:
    """At most `limit` characters that a terminal shows as they are."""
    shown = "".join(character if character.isprintable() else "?" for character in text[:limit])
    return shown + ("..." if len(text) > limit else "")


def entries(directory: Path) -> list[str]:
    """Names in a directory, sorted, `MAX_ENTRIES` at most; none where it cannot be listed."""
    try:
        with os.scandir(directory) as listing:
            return sorted(entry.name for entry in islice(listing, MAX_ENTRIES))
    except OSError:
        return []


class Attributes:
    """Attributes of the object called `name`; what is wrong with them is appended to `problems`."""

    def __init__(self, directory: Path, name: str, problems: list[str]) -> None:
        self._directory = directory
        self._name = name
        self._problems = problems

    def text(self, attribute: str, *, required: bool = False) -> str | None:
        """The attribute without the space around it, None without one."""
        try:
            data = read_bounded(self._directory / attribute)
        except OSError as error:
            if error.errno not in _ABSENT:
                self._problem(attribute, f"cannot be read: {error.strerror}")
            elif required:
                self._problem(attribute, "is not there")
            return None
        try:
            return data.decode("ascii").strip()
        except UnicodeDecodeError:
            self._problem(attribute, "is no text")
            return None

    def whole(self, attribute: str, least: int, most: int, *, required: bool = False) -> int | None:
        """A whole number, decimal or 0x, within the bounds."""
        text = self.text(attribute, required=required)
        if text is None:
            return None
        if not _WHOLE.fullmatch(text):
            self._bad(attribute, text, "is not a whole number")
            return None
        number = int(text, 16 if text[:2].lower() == "0x" else 10)
        if not least <= number <= most:
            self._bad(attribute, text, f"is not within {least} to {most}")
            return None
        return number

    def flag(self, attribute: str, *, required: bool = False) -> bool | None:
        """0 or 1."""
        number = self.whole(attribute, 0, 1, required=required)
        return None if number is None else number == 1

    def word(self, attribute: str, known: tuple[str, ...], *, required: bool = False) -> str | None:
        """One of the words that the ABI has."""
        text = self.text(attribute, required=required)
        if text is None or text in known:
            return text
        self._bad(attribute, text, f"is none of {', '.join(word for word in known if word)}")
        return None

    def _bad(self, attribute: str, text: str, what: str) -> None:
        self._problem(attribute, f"{printable(text)!r} {what}")

    def _problem(self, attribute: str, what: str) -> None:
        if len(self._problems) < MAX_PROBLEMS:
            self._problems.append(f"{self._name}: {attribute} {what}")
