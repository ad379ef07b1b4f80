"""A worker's side of accelerators: codecs and scans that ask for credit, made of what a job says.

One `Credits` per process: the channels of a worker share a row of the table for each flow. A device is opened by each
channel for itself, in the channel's own thread and only when it is first needed. A row or a table that cannot be used
any more means that the migration is over for the agent, and the CPU does what is left.
"""

from pathlib import Path

from pipeline.codecs.codec import Codec, CodecId
from pipeline.codecs.device_access import DeviceAccess
from pipeline.codecs.device_deflate import DEVICE_MEMORY_BYTES as DEFLATE_MEMORY_BYTES
from pipeline.codecs.device_deflate import DeviceDeflateCodec
from pipeline.codecs.device_scan import DEVICE_MEMORY_BYTES as SCAN_MEMORY_BYTES
from pipeline.codecs.device_scan import DeviceScan
from pipeline.codecs.table import codec_for
from pipeline.memory.scan import Scan, scan
from pipeline.offload import Offload, OffloadDevice
from scheduler.core.units import AcceleratorKind
from scheduler.credit import Credit, Credits
from scheduler.credit_table import CreditError
from scheduler.devices.emulated.client import EmulatedDevice

#: What these make is raw deflate.
DEFLATE_KINDS = (AcceleratorKind.IAA.value, AcceleratorKind.QAT.value)
SCAN_KINDS = (AcceleratorKind.DSA.value,)

_credits = Credits()


def offloaded_codec(offload: Offload | None, codec_id: CodecId, level: int | None = None) -> Codec:
    """The codec, by a device where the job has one that makes it."""
    found = _device(offload, DEFLATE_KINDS) if codec_id is CodecId.DEFLATE else None
    if found is None:
        return codec_for(codec_id, level)
    device, credit = found
    return DeviceDeflateCodec(_access(device, DEFLATE_MEMORY_BYTES), credit, level)


def offloaded_scan(offload: Offload | None) -> Scan:
    """The scan, by a device where the job has one for it."""
    found = _device(offload, SCAN_KINDS)
    if found is None:
        return scan
    device, credit = found
    return DeviceScan(_access(device, SCAN_MEMORY_BYTES), credit)


def _device(offload: Offload | None, kinds: tuple[str, ...]) -> tuple[OffloadDevice, Credit] | None:
    if offload is None:
        return None
    for device in offload.devices:
        if device.kind in kinds:
            try:
                return device, _credits.row(Path(offload.table), device.row)
            except CreditError:
                return None
    return None


def _access(device: OffloadDevice, memory_bytes: int) -> DeviceAccess:
    return DeviceAccess(lambda: EmulatedDevice.open(Path(device.socket), memory_bytes))
