"""A worker's side of accelerators: codecs and scans that ask for credit, made of what a job says.

One `Credits` per process: the channels of a worker share a row of the table for each flow. A device is opened by each
channel for itself, in the channel's own thread and only when it is first needed. A row or a table that cannot be used
any more means that the migration is over for the agent, and the CPU does what is left.

Which codecs a link's frames may be of is agreed when it opens. A source with QAT offers its formats beside deflate, and
each batch goes where it is done sooner. A destination whose IAA decodes takes none with QAT's window of 32 KiB, its
history is 4 KiB; there QAT makes a raw stream of each page (`qat-raw`), which an IAA decodes. Anywhere else
gzip-extended is taken and raw is not: by the page QAT is several times slower, and QATzip does one of the two in a
process.
"""

from collections.abc import Sequence
from pathlib import Path

from pipeline.codecs.codec import Codec, CodecId
from pipeline.codecs.device_access import DeviceAccess
from pipeline.codecs.device_choice import ChoosingCodec
from pipeline.codecs.device_deflate import DEVICE_MEMORY_BYTES as DEFLATE_MEMORY_BYTES
from pipeline.codecs.device_deflate import DeviceDeflateCodec
from pipeline.codecs.device_qat import DEVICE_MEMORY_BYTES as QAT_MEMORY_BYTES
from pipeline.codecs.device_qat import DeviceQatCodec
from pipeline.codecs.device_qat_raw import DEVICE_MEMORY_BYTES as QAT_RAW_MEMORY_BYTES
from pipeline.codecs.device_qat_raw import DeviceQatRawCodec
from pipeline.codecs.device_scan import DEVICE_MEMORY_BYTES as SCAN_MEMORY_BYTES
from pipeline.codecs.device_scan import DeviceScan
from pipeline.codecs.table import codec_for
from pipeline.memory.scan import Scan, scan
from pipeline.offload import Offload, OffloadDevice
from scheduler.core.units import AcceleratorKind
from scheduler.credit import Credit, Credits
from scheduler.credit_table import CreditError
from scheduler.devices.device import Device

IAA, QAT, DSA = (kind.value for kind in (AcceleratorKind.IAA, AcceleratorKind.QAT, AcceleratorKind.DSA))

_credits = Credits()


def offered(offload: Offload | None, codec_id: CodecId) -> tuple[CodecId, ...]:
    """What a source's frames could be of besides `codec_id`."""
    qat = offload is not None and codec_id is CodecId.DEFLATE and offload.device(QAT) is not None
    return (CodecId.QAT, CodecId.QAT_RAW) if qat else ()


def taken(offload: Offload | None) -> tuple[CodecId, ...]:
    """What a destination takes besides the codec that it was told."""
    return (CodecId.QAT_RAW if offload is not None and offload.device(IAA) is not None else CodecId.QAT,)


def offloaded_codec(
    offload: Offload | None, codec_id: CodecId, level: int | None = None, also: Sequence[CodecId] = ()
) -> Codec:
    """The codec that a source encodes by, with devices where the job has one that makes it; `also`: what else frames
    may be of."""
    first = _encoder(offload, codec_id, level)
    others = [_encoder(offload, other, None) for other in also if other is not codec_id]
    return ChoosingCodec((first, *others)) if others else first


def offloaded_decoders(offload: Offload | None, codec_id: CodecId, also: Sequence[CodecId] = ()) -> tuple[Codec, ...]:
    """What a destination decodes by, one for each codec that frames may be of; that of `codec_id` comes first."""
    # One device for all that it decodes: a frame is done with before the next one is decoded.
    found = _device(offload, IAA)
    iaa = None if found is None else (_access(found[0], DEFLATE_MEMORY_BYTES), found[1])
    return tuple(_decoder(offload, iaa, each) for each in dict.fromkeys((codec_id, *also)))


def offloaded_scan(offload: Offload | None) -> Scan:
    """The scan, by a device where the job has one for it."""
    found = _device(offload, DSA)
    if found is None:
        return scan
    device, credit = found
    return DeviceScan(_access(device, SCAN_MEMORY_BYTES), credit)


def _encoder(offload: Offload | None, codec_id: CodecId, level: int | None) -> Codec:
    if codec_id is CodecId.DEFLATE and (found := _device(offload, IAA)) is not None:
        device, credit = found
        return DeviceDeflateCodec(_access(device, DEFLATE_MEMORY_BYTES), credit, level)
    return _qat(offload, codec_id, level) or codec_for(codec_id, level)


def _decoder(offload: Offload | None, iaa: tuple[DeviceAccess, Credit] | None, codec_id: CodecId) -> Codec:
    if iaa is not None and codec_id in (CodecId.DEFLATE, CodecId.QAT_RAW):
        return DeviceDeflateCodec(*iaa, codec_id=codec_id)
    return _qat(offload, codec_id, None) or codec_for(codec_id)


def _qat(offload: Offload | None, codec_id: CodecId, level: int | None) -> Codec | None:
    """A codec of QAT's own, where the job has one."""
    if codec_id not in (CodecId.QAT, CodecId.QAT_RAW) or (found := _device(offload, QAT)) is None:
        return None
    device, credit = found
    if codec_id is CodecId.QAT_RAW:
        return DeviceQatRawCodec(_access(device, QAT_RAW_MEMORY_BYTES, raw=True), credit, level)
    return DeviceQatCodec(_access(device, QAT_MEMORY_BYTES), credit, level)


def _device(offload: Offload | None, kind: str) -> tuple[OffloadDevice, Credit] | None:
    device = None if offload is None else offload.device(kind)
    if offload is None or device is None:
        return None
    try:
        return device, _credits.row(Path(offload.table), device.row)
    except CreditError:
        return None


def _access(device: OffloadDevice, memory_bytes: int, *, raw: bool = False) -> DeviceAccess:
    def opened() -> Device:
        # The bindings are imported by the workers that have devices.
        from scheduler.devices.opening import open_device
        from scheduler.devices.qat.libqatzip import GZIP_EXTENDED, RAW_PAGES

        return open_device(device.address, memory_bytes, RAW_PAGES if raw else GZIP_EXTENDED)

    return DeviceAccess(opened)
