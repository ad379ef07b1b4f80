"""The types that a spec's fields have, and what every part of a spec keeps.

The rules: an unknown field is an error, nothing is coerced from another type, every path is absolute (it is read on
another host). Amounts and rates may be written as people write them: 8GiB, 50MB/s.
"""

import ipaddress
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema
from pydantic.alias_generators import to_camel

from pipeline.byte_amounts import parse_bytes, parse_rate
from pipeline.codecs.codec import codec_names
from pipeline.fleet.commands import Command
from pipeline.wire.handshake import MAX_CHANNELS

MAX_HOSTS = 1_000
MAX_VIRTUAL_MACHINES = 10_000
#: QEMU's own bound of downtime-limit.
MAX_DOWNTIME_LIMIT_MS = 2_000_000
#: A full packet takes five seconds then; slower, links would be taken for stalled.
MIN_BANDWIDTH_BYTES_S = 100_000
MAX_BANDWIDTH_BYTES_S = 10**12
MAX_WEIGHT = 1_000
#: Of one virtual machine.
MAX_LABELS = 64
#: A year: what is longer is a mistake.
MAX_SECONDS = 366 * 86_400
MAX_MEMORY_BYTES = 1 << 46
_MAX_COMMAND_CHARACTERS = 64 << 10

Item = TypeVar("Item")

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_LABEL_KEY = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._/-]{0,251}[A-Za-z0-9])?")
_LABEL_VALUE = re.compile(r"([A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?)?")
_DNS_NAME = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]{0,251}[A-Za-z0-9])?")


def _check_name(text: str) -> str:
    if not _NAME.fullmatch(text):
        raise ValueError(
            f"{text[:80]!r} is no name: use at most 63 letters, digits, '.', '_' and '-', the first not a sign"
        )
    return text


def _check_address(text: str) -> str:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        if not _DNS_NAME.fullmatch(text):
            raise ValueError(
                f"{text[:80]!r} is no address: give an IP address or a host name, without a port"
            ) from None
    return text


def _check_path(path: Path) -> Path:
    if not path.is_absolute() or not str(path).isprintable():
        raise ValueError(f"{str(path)[:80]!r} is no absolute path: it is used on the host named, begin it with '/'")
    return path


def _check_codec(text: str) -> str:
    if text not in codec_names():
        raise ValueError(f"codec {text[:80]!r} is unknown: choose one of {', '.join(codec_names())}")
    return text


def _check_command(value: Any) -> Any:
    words = (value,) if isinstance(value, str) else value
    if not isinstance(words, list | tuple) or not words or not all(isinstance(word, str) for word in words):
        raise ValueError("is no command: give a list of words, each a string, or one string for /bin/sh -c")
    if not words[0].strip() or any("\0" in word for word in words) or sum(map(len, words)) > _MAX_COMMAND_CHARACTERS:
        raise ValueError("is no command that could be run: it is empty, too long or has a NUL in it")
    return value if isinstance(value, str) else tuple(words)


def _read_rate(value: Any) -> Any:
    return parse_rate(value) if isinstance(value, str) else value


def _read_bytes(value: Any) -> Any:
    return parse_bytes(value) if isinstance(value, str) else value


def _check_labels(labels: Mapping[str, str]) -> Mapping[str, str]:
    for key, value in labels.items():
        if not _LABEL_KEY.fullmatch(key):
            raise ValueError(f"{key[:80]!r} is no label: use at most 253 letters, digits, '.', '_', '-' and '/'")
        if not _LABEL_VALUE.fullmatch(value):
            raise ValueError(
                f"{key}: {value[:80]!r} is no label's value: use at most 63 letters, digits, '.', '_' and '-'"
            )
    if len(labels) > MAX_LABELS:
        raise ValueError(f"has {len(labels)} labels: give at most {MAX_LABELS}")
    return labels


def _check_selector(labels: Mapping[str, str]) -> Mapping[str, str]:
    if not labels:
        raise ValueError("selects nothing in particular: give at least one label, what holds for all stands in spec")
    return _check_labels(labels)


def check_count(most: int) -> Callable[[tuple[Item, ...]], tuple[Item, ...]]:
    """A validator of a list's length."""

    # min_length would be a second problem of a list whose items are all wrong: it counts those that are left.
    def check(items: tuple[Item, ...]) -> tuple[Item, ...]:
        if not 1 <= len(items) <= most:
            raise ValueError(f"has {len(items)} items: give at least one and at most {most}")
        return items

    return check


def _amount_or_text(least: int, most: int) -> WithJsonSchema:
    text = {"type": "string", "pattern": r"^\s*\d{1,18}(\.\d{1,6})? ?([kKMGT]?i?)B?(/[sS])?\s*$"}
    return WithJsonSchema({"anyOf": [{"type": "integer", "minimum": least, "maximum": most}, text]})


Name = Annotated[str, AfterValidator(_check_name)]
Address = Annotated[str, AfterValidator(_check_address)]
# Strictness would ask for a Path object, which YAML does not have; nothing but a string becomes one.
AbsolutePath = Annotated[Path, Field(strict=False), AfterValidator(_check_path)]
CodecName = Annotated[str, AfterValidator(_check_codec), Field(json_schema_extra={"enum": list(codec_names())})]
Channels = Annotated[int, Field(ge=1, le=MAX_CHANNELS)]
# Given as 50MB or in bytes per second; so are all rates, and amounts as 8GiB or in bytes.
Bandwidth = Annotated[
    int,
    Field(ge=MIN_BANDWIDTH_BYTES_S, le=MAX_BANDWIDTH_BYTES_S),
    BeforeValidator(_read_rate),
    _amount_or_text(MIN_BANDWIDTH_BYTES_S, MAX_BANDWIDTH_BYTES_S),
]
Rate = Annotated[
    int,
    Field(ge=0, le=MAX_BANDWIDTH_BYTES_S),
    BeforeValidator(_read_rate),
    _amount_or_text(0, MAX_BANDWIDTH_BYTES_S),
]
Amount = Annotated[
    int, Field(ge=1, le=MAX_MEMORY_BYTES), BeforeValidator(_read_bytes), _amount_or_text(1, MAX_MEMORY_BYTES)
]
Seconds = Annotated[float, Field(gt=0, le=MAX_SECONDS)]
WholeSeconds = Annotated[int, Field(ge=1, le=MAX_SECONDS)]
Parallel = Annotated[int, Field(ge=1, le=MAX_VIRTUAL_MACHINES)]
Labels = Annotated[Mapping[str, str], AfterValidator(_check_labels)]
Selector = Annotated[Mapping[str, str], AfterValidator(_check_selector)]
Weight = Annotated[int, Field(ge=1, le=MAX_WEIGHT)]
DowntimeLimitMs = Annotated[int, Field(ge=1, le=MAX_DOWNTIME_LIMIT_MS)]
# Checked before it is typed, so that a bad command is one problem and not one per member of the union.
CheckedCommand = Annotated[Command, BeforeValidator(_check_command)]


class Model(BaseModel):
    """What all parts of a spec keep."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
    )
