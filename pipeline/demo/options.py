"""What `kuaka demo` was asked for, checked before anything is started."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias, get_args

from pipeline.byte_amounts import parse_bytes, parse_rate, show_bytes
from pipeline.codecs.codec import CodecId, parse_codec
from pipeline.codecs.table import codec_for
from pipeline.demo.guest import GuestParameters
from pipeline.emulated_device import read_devices
from pipeline.errors import UsageError
from pipeline.fleet.places import AUTO, DeviceChoice
from pipeline.fleet.spec_fields import MAX_BANDWIDTH_BYTES_S, MAX_WEIGHT, MIN_BANDWIDTH_BYTES_S
from pipeline.wire.handshake import MAX_CHANNELS

MAX_VMS = 64
_DEFAULT_CODEC = "zstd"
#: What accelerators make.
_ACCELERATED = (CodecId.DEFLATE, CodecId.QAT, CodecId.QAT_RAW)
_DIRTY_BYTES_S, _ALL_DIRTY_BYTES_S = 20 << 20, 40 << 20

ZeroPageDetection: TypeAlias = Literal["none", "legacy", "multifd"]


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """A demo's guests and how they move; `link_rate_bytes_s` is for all of them together. Errors: `UsageError`."""

    vms: int
    memory_bytes: int
    channels: int
    codec: str
    level: int | None
    source_qemu: str | None
    destination_qemu: str | None
    zero_page_detection: ZeroPageDetection | None
    normal_page_ratio: float
    dirty_rate_bytes_s: int
    link_rate_bytes_s: int | None
    workers: int
    #: One of each guest.
    weights: tuple[int, ...] = ()
    #: Declares the accelerators that both hosts emulate; `AUTO`: those that this machine has; None: none.
    devices: DeviceChoice = None

    def __post_init__(self) -> None:
        if not 1 <= self.vms <= MAX_VMS:
            raise UsageError(f"--vms {self.vms}: give a number from 1 to {MAX_VMS}")
        if not 1 <= self.channels <= MAX_CHANNELS:
            raise UsageError(f"--channels {self.channels}: give a number from 1 to {MAX_CHANNELS}")
        codec_for(parse_codec(self.codec), self.level)
        self._check_weights()
        self._check_devices()
        rate = self.rate_per_vm_bytes_s
        if rate is not None and not MIN_BANDWIDTH_BYTES_S <= rate <= MAX_BANDWIDTH_BYTES_S:
            least = show_bytes(MIN_BANDWIDTH_BYTES_S * self.vms)
            raise UsageError(f"--link-rate {self.link_rate_bytes_s}: give at least {least}/s for {self.vms} guests")
        self.guest(0)

    @property
    def rate_per_vm_bytes_s(self) -> int | None:
        """Wire bytes per second of one guest's migration; None: no cap."""
        return None if self.link_rate_bytes_s is None else self.link_rate_bytes_s // self.vms

    def weight(self, number: int) -> int:
        """The weight of the guest of this number, from 1."""
        return self.weights[number - 1] if self.weights else 1

    def _check_weights(self) -> None:
        if self.weights and len(self.weights) != self.vms:
            raise UsageError(f"--weights: {len(self.weights)} weights for {self.vms} guests: give one for each")
        if any(not 1 <= weight <= MAX_WEIGHT for weight in self.weights):
            raise UsageError(f"--weights: each is a whole number from 1 to {MAX_WEIGHT}")

    def _check_devices(self) -> None:
        if self.devices is None:
            if self.weights:
                raise UsageError("--weights: there is nothing to share without --devices")
            return
        if self.devices == AUTO:
            return
        if parse_codec(self.codec) not in _ACCELERATED:
            raise UsageError(f"--codec {self.codec}: no accelerator makes it: use --codec deflate, qat or qat-raw")
        read_devices(Path(self.devices))

    def guest(self, number: int, extra_bytes: int = 0) -> GuestParameters:
        """What the guest of this number does, with so much more memory; each holds memory of its own."""
        return GuestParameters(
            self.memory_bytes + extra_bytes,
            normal_page_ratio=self.normal_page_ratio,
            dirty_rate_bytes_s=self.dirty_rate_bytes_s,
            seed=number,
        )


def parse_options(
    *,
    vms: int,
    memory: str,
    channels: int,
    codec: str | None,
    level: int | None,
    source_qemu: str | None,
    destination_qemu: str | None,
    zero_page_detection: str | None,
    normal_page_ratio: float,
    dirty_rate: str | None,
    link_rate: str | None,
    workers: int,
    weights: str | None = None,
    devices: str | None = None,
    has_accelerators: Callable[[], bool] = lambda: False,
) -> DemoOptions:
    """The options as a user wrote them. Raises `UsageError` in one line."""
    return DemoOptions(
        vms,
        _amount("--memory", memory),
        channels,
        codec or _codec(devices, has_accelerators),
        level,
        source_qemu,
        destination_qemu,
        _detection(zero_page_detection),
        normal_page_ratio,
        _dirty_rate(vms) if dirty_rate is None else _rate("--dirty-rate", dirty_rate),
        None if link_rate is None else _rate("--link-rate", link_rate),
        workers,
        _weights(weights),
        AUTO if devices == AUTO else Path(devices).absolute() if devices is not None else None,
    )


def _codec(devices: str | None, has_accelerators: Callable[[], bool]) -> str:
    """What an accelerator makes, where there is one."""
    offloaded = has_accelerators() if devices == AUTO else devices is not None
    return CodecId.DEFLATE.label if offloaded else _DEFAULT_CODEC


def _dirty_rate(vms: int) -> int:
    """What a guest writes per second if nobody says: all of them together no more than two cores can keep up with."""
    return min(_DIRTY_BYTES_S, _ALL_DIRTY_BYTES_S // max(1, vms))


def _weights(text: str | None) -> tuple[int, ...]:
    if text is None:
        return ()
    try:
        return tuple(int(word) for word in text.split(","))
    except ValueError:
        raise UsageError(
            f"--weights {text[:80]!r}: give whole numbers with commas between them, e.g. 1,1,2,4"
        ) from None


def _detection(name: str | None) -> ZeroPageDetection | None:
    for known in get_args(ZeroPageDetection):
        if name == known:
            detection: ZeroPageDetection = known
            return detection
    if name is None:
        return None
    raise UsageError(f"--zero-page-detection {name[:80]}: choose one of {', '.join(get_args(ZeroPageDetection))}")


def _amount(option: str, text: str) -> int:
    try:
        return parse_bytes(text)
    except ValueError as error:
        raise UsageError(f"{option}: {error}") from None


def _rate(option: str, text: str) -> int:
    try:
        return parse_rate(text)
    except ValueError as error:
        raise UsageError(f"{option}: {error}") from None
