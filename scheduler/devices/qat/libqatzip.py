"""libqatzip as it is called: found at run time, its symbols and its layouts checked before anything is trusted to it.

The ABI is that of libqatzip.so.3 (QATzip 1.2 and later). Layouts are declared here and proven twice: by their sizes,
and by the library's own defaults, which are read into a larger buffer, where they must lie as declared and leave the
rest alone. Calls release the interpreter's lock. Nothing here decides anything: see `session` and `codes`.

QATzip does deflate in four formats; two are used, which its hardware both writes and reads, whole packets in one call
(`Form`). Its format 3, raw deflate with nothing around it, is not one of them: several buffers become one stream of
several blocks, and in many versions it is software that reads it, whatever a session allows.
"""

import ctypes
import ctypes.util
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass

from scheduler.devices.device import DeviceUnavailable

SONAME = "libqatzip.so.3"
#: Names a library to use instead of the system's.
LIBRARY_VARIABLE = "KUAKA_LIBQATZIP"
#: The most that a session's buffer is here: what one request to the hardware holds.
HW_BUFFER_BYTES = 64 << 10
#: Bit of the extended result: software did it. It is not always set when software did.
SOFTWARE_BIT = 1 << 4
#: Smaller inputs are software's, even in a session without; the least that a session takes.
LEAST_INPUT_BYTES = 128

_DEFLATE_4B, _GZIP_EXTENDED = 0, 2
_DEFLATE, _BOTH_DIRECTIONS, _LEVEL = 8, 2, 1
_PINNED, _COMMON = 1, 0
_SILENT = 0


@dataclass(frozen=True, slots=True)
class Form:
    """What streams of a session look like: QATzip's number for it, and how much one of their members holds."""

    data_fmt: int
    member_bytes: int


#: Members with gzip's header, their sizes in it, and a checksum; see `pipeline.codecs.gzip_extended`.
GZIP_EXTENDED = Form(_GZIP_EXTENDED, HW_BUFFER_BYTES)
#: A raw deflate stream for each page, of one block, behind four bytes (little-endian) of its length. No checksum.
RAW_PAGES = Form(_DEFLATE_4B, 4096)


class Session(ctypes.Structure):
    """QzSession_T."""

    _fields_ = (
        ("hw_session_stat", ctypes.c_long),
        ("thd_sess_stat", ctypes.c_int),
        ("internal", ctypes.c_void_p),
        ("total_in", ctypes.c_ulong),
        ("total_out", ctypes.c_ulong),
    )


class CommonParameters(ctypes.Structure):
    """QzSessionParamsCommon_T."""

    _fields_ = (
        ("direction", ctypes.c_int),
        ("comp_lvl", ctypes.c_uint),
        ("comp_algorithm", ctypes.c_ubyte),
        ("max_forks", ctypes.c_uint),
        ("sw_backup", ctypes.c_ubyte),
        ("hw_buff_sz", ctypes.c_uint),
        ("strm_buff_sz", ctypes.c_uint),
        ("input_sz_thrshold", ctypes.c_uint),
        ("req_cnt_thrshold", ctypes.c_uint),
        ("wait_cnt_thrshold", ctypes.c_uint),
        ("polling_mode", ctypes.c_int),
        ("is_sensitive_mode", ctypes.c_uint),
    )


class DeflateParameters(ctypes.Structure):
    """QzSessionParamsDeflate_T."""

    _fields_ = (("common", CommonParameters), ("huffman_hdr", ctypes.c_int), ("data_fmt", ctypes.c_int))


class DeflateExtParameters(ctypes.Structure):
    """QzSessionParamsDeflateExt_T."""

    _fields_ = (
        ("deflate", DeflateParameters),
        ("stop_decompression_stream_end", ctypes.c_ubyte),
        ("zlib_format", ctypes.c_ubyte),
    )


#: Published sizes, in bytes.
SIZES = {Session: 40, CommonParameters: 48, DeflateParameters: 56, DeflateExtParameters: 60}
assert all(ctypes.sizeof(structure) == size for structure, size in SIZES.items())

_SESSION = ctypes.POINTER(Session)
_UINT = ctypes.POINTER(ctypes.c_uint)
_EXTENDED = ctypes.POINTER(ctypes.c_uint64)
_DATA = ctypes.c_void_p
_SIGNATURES: Mapping[str, tuple[object, tuple[object, ...]]] = {
    "qzInit": (ctypes.c_int, (_SESSION, ctypes.c_ubyte)),
    "qzGetDefaultsDeflateExt": (ctypes.c_int, (_DATA,)),
    "qzSetupSessionDeflateExt": (ctypes.c_int, (_SESSION, ctypes.POINTER(DeflateExtParameters))),
    "qzCompressExt": (ctypes.c_int, (_SESSION, _DATA, _UINT, _DATA, _UINT, ctypes.c_uint, _EXTENDED)),
    "qzDecompressExt": (ctypes.c_int, (_SESSION, _DATA, _UINT, _DATA, _UINT, _EXTENDED)),
    "qzMalloc": (ctypes.c_void_p, (ctypes.c_size_t, ctypes.c_int, ctypes.c_int)),
    "qzFree": (None, (ctypes.c_void_p,)),
    "qzTeardownSession": (ctypes.c_int, (_SESSION,)),
    "qzClose": (ctypes.c_int, (_SESSION,)),
    "qzSetLogLevel": (ctypes.c_int, (ctypes.c_int,)),
}
_GUARD, _GUARDED_BYTES = 0xA5, 256


class QatZip:
    """A loaded libqatzip; raises `DeviceUnavailable` in one line where it is not what it must be."""

    def __init__(self, path: str) -> None:
        self.path = path
        try:
            self._library = ctypes.CDLL(path)
        except OSError as error:
            raise DeviceUnavailable(f"{path}: cannot be loaded: {error}: install libqatzip3") from None
        for name, (result, arguments) in _SIGNATURES.items():
            try:
                function = getattr(self._library, name)
            except AttributeError:
                raise DeviceUnavailable(f"{path}: has no {name}: install QATzip 1.2 or later ({SONAME})") from None
            function.restype, function.argtypes = result, arguments
        # It would write to the standard output of whoever loads it.
        self._library.qzSetLogLevel(_SILENT)
        self._check_layout()
        self._claiming = threading.Lock()
        self._form: Form | None = None

    @property
    def library(self) -> ctypes.CDLL:
        """The library itself, for the symbols that only a stand-in has."""
        return self._library

    def init(self, session: Session) -> int:
        """Attach to the hardware; no software in its stead."""
        return int(self._library.qzInit(session, 0))

    def claim(self, form: Form) -> None:
        """Asked before a session of this form is set up. Raises `DeviceUnavailable` where the process has another.

        QATzip makes an instance's buffers for the first session that uses it, for the life of the process, and lets
        hardware write a later session's larger members into them.
        """
        with self._claiming:
            if self._form is None:
                self._form = form
            if self._form.member_bytes != form.member_bytes:
                raise DeviceUnavailable(
                    f"QATzip's buffers are of {self._form.member_bytes} bytes in this process and stay so, "
                    f"{form.member_bytes} are needed: codecs qat and qat-raw are not for one worker"
                )

    def setup(self, session: Session, form: Form = GZIP_EXTENDED) -> int:
        """Deflate both ways in streams of this form; no software in the hardware's stead."""
        parameters = self._defaults()
        parameters.deflate.data_fmt = form.data_fmt
        parameters.zlib_format = 0
        common = parameters.deflate.common
        common.direction, common.comp_lvl, common.sw_backup = _BOTH_DIRECTIONS, _LEVEL, 0
        common.hw_buff_sz, common.input_sz_thrshold = form.member_bytes, LEAST_INPUT_BYTES
        # Sensitive to latency: software again, by the library's own judgement.
        common.is_sensitive_mode = 0
        return int(self._library.qzSetupSessionDeflateExt(session, parameters))

    def compress(
        self, session: Session, source: int, source_bytes: int, to: int, room_bytes: int
    ) -> tuple[int, int, int, bool]:
        """Result, bytes read, bytes written, whether it says that software did it; `source` and `to` are addresses."""
        read, written, extended = ctypes.c_uint(source_bytes), ctypes.c_uint(room_bytes), ctypes.c_uint64(0)
        result = self._library.qzCompressExt(session, source, read, to, written, 1, extended)
        return int(result), read.value, written.value, bool(extended.value & SOFTWARE_BIT)

    def decompress(
        self, session: Session, source: int, source_bytes: int, to: int, room_bytes: int
    ) -> tuple[int, int, int, bool]:
        """As `compress`."""
        read, written, extended = ctypes.c_uint(source_bytes), ctypes.c_uint(room_bytes), ctypes.c_uint64(0)
        result = self._library.qzDecompressExt(session, source, read, to, written, extended)
        return int(result), read.value, written.value, bool(extended.value & SOFTWARE_BIT)

    def allocate(self, size_bytes: int, numa_node: int) -> int:
        """Address of memory, pinned if there is any to be had: other memory costs a copy either way. 0: none."""
        for kind in (_PINNED, _COMMON):
            address = self._library.qzMalloc(size_bytes, numa_node, kind)
            if address:
                return int(address)
        return 0

    def free(self, address: int) -> None:
        """Give back what `allocate` gave."""
        self._library.qzFree(address)

    def end(self, session: Session) -> None:
        """Tear a session down and close it; harmless for one that was never set up."""
        self._library.qzTeardownSession(session)
        self._library.qzClose(session)

    def _defaults(self) -> DeflateExtParameters:
        parameters = DeflateExtParameters()
        self._library.qzGetDefaultsDeflateExt(ctypes.addressof(parameters))
        return parameters

    def _check_layout(self) -> None:
        guarded = (ctypes.c_ubyte * _GUARDED_BYTES)(*([_GUARD] * _GUARDED_BYTES))
        result = self._library.qzGetDefaultsDeflateExt(ctypes.addressof(guarded))
        size = SIZES[DeflateExtParameters]
        parameters = DeflateExtParameters.from_buffer_copy(guarded)
        common = parameters.deflate.common
        if (
            result != 0
            or any(byte != _GUARD for byte in guarded[size:])
            or common.comp_algorithm != _DEFLATE
            or not 0 <= common.direction <= _BOTH_DIRECTIONS
            or common.hw_buff_sz != HW_BUFFER_BYTES
            or parameters.deflate.data_fmt != _GZIP_EXTENDED
        ):
            raise DeviceUnavailable(f"{self.path}: its structures differ from {SONAME}'s: install QATzip 1.2 or later")


def load_qatzip(environ: Mapping[str, str] = os.environ) -> QatZip:
    """The library that `KUAKA_LIBQATZIP` names, else the system's. Raises `DeviceUnavailable`."""
    named = environ.get(LIBRARY_VARIABLE)
    if named:
        return QatZip(named)
    try:
        return QatZip(SONAME)
    except DeviceUnavailable:
        other = ctypes.util.find_library("qatzip")
        if other is None or other == SONAME:
            raise
        raise DeviceUnavailable(f"{other} is installed, {SONAME} is needed: install QATzip 1.2 or later") from None
