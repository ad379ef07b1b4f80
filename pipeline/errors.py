"""What can go wrong in words a user can act on, and the exit code each kind ends with.

The rule: a mistake of the user, or a failure of the world around us, is raised as a `KuakaError` whose text is one
line that says what, where and what to do. The command line prints that line and exits with `exit_code`; a traceback
is a bug of ours.
"""

from enum import IntEnum


class ExitCode(IntEnum):
    """Exit codes of every kuaka command; they are part of the public interface (docs/exit-codes.md)."""

    OK = 0
    FAILED = 1
    USAGE = 2
    PARTIAL = 3
    SPEC_REJECTED = 4
    DEADLINE = 5
    INTERRUPTED = 130


class KuakaError(Exception):
    """A failure with a one-line explanation; `exit_code` is what a command that ends with it returns."""

    exit_code = ExitCode.FAILED


class UsageError(KuakaError):
    """The command line asks for something that cannot be."""

    exit_code = ExitCode.USAGE


class SpecError(KuakaError):
    """The spec, or a machine it names, was rejected before anything moved."""

    exit_code = ExitCode.SPEC_REJECTED


class DeadlineError(KuakaError):
    """A time limit that the user set has passed."""

    exit_code = ExitCode.DEADLINE


class WireError(KuakaError):
    """Bytes from a peer break the format: the link they came over is closed and nothing of them is used."""


class LinkError(KuakaError):
    """A link to another host was refused, cut or has stalled."""


class LinkCut(LinkError):
    """A connection ended without a word why. The reason may still come another way: the other end was told, or died."""


class LinkRefused(LinkError):
    """The other end is who it should be, and wants what cannot be done here."""


class MigrationError(KuakaError):
    """One migration failed; its source keeps running."""


def one_line(text: str, limit: int = 1000) -> str:
    """What a peer gave as its reason, on one line of at most `limit` printable characters: it is shown in terminals."""
    return "".join(character if character.isprintable() else " " for character in text[:limit])


class InterruptedMigration(MigrationError):
    """One migration was given up because the user asked for it."""

    exit_code = ExitCode.INTERRUPTED
