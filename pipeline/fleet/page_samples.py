"""What the pages of images that are here cost: a few of them are scanned, encoded and decoded as a migration would.

Only a codec's work depends on what is in pages, and on its level; the rest (reading, frames, sockets, writing) is that
of the codec `none`, from the plan's table, for as many normal pages:

    cost per raw byte = table's none x (normal pages / those of the table) + what the sample took

Times are of this thread, so other processes do not count: what they take is the plan's `local_cores`. A sample is at
most a few MiB and a tenth of a second for each kind of machine in a spec.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from pipeline.codecs.codec import Codec, CodecId
from pipeline.codecs.table import codec_for
from pipeline.fleet.plan.from_spec import DEFAULT_COSTS, TABLE_NORMAL_PERMILLE, CodecCost, is_local
from pipeline.fleet.spec import ImageVm, Spec, resolve
from pipeline.memory.pages import NORMAL, PAGE_BYTES, WORDS_PER_PAGE
from pipeline.memory.scan import scan

_NS_PER_S = 10**9
#: Images looked at of each kind, and pieces of each; a piece is what one frame has.
_IMAGES, _PIECES = 8, 4
_PIECE_BYTES = 128 * PAGE_BYTES
_BUDGET_NS = 100_000_000
#: Even a page that is not sent is looked at: it costs so much of a normal one.
_LEAST_PERMILLE = 100


def sampled_costs(spec: Spec) -> Mapping[str, CodecCost]:
    """Costs by machine, of images on this machine that can be read; accelerators' codecs are the table's."""
    kinds: dict[tuple[CodecId, int | None], list[ImageVm]] = {}
    for vm in spec.spec.virtual_machines:
        if isinstance(vm, ImageVm) and is_local(spec.host(vm.source.host)):
            settings = resolve(spec, vm)
            kinds.setdefault((settings.codec, settings.level), []).append(vm)
    found: dict[str, CodecCost] = {}
    for (codec_id, level), machines in kinds.items():
        cost = _cost(codec_for(codec_id, level), [vm.source.path for vm in machines])
        if cost is not None:
            found |= dict.fromkeys((vm.name for vm in machines), cost)
    return found


def _cost(codec: Codec, images: Sequence[Path]) -> CodecCost | None:
    raw = normal = wire = encode_ns = decode_ns = 0
    for piece in _pieces(images[:: -(-len(images) // _IMAGES)]):
        pages = np.frombuffer(piece, dtype=np.uint64).reshape(-1, WORDS_PER_PAGE)
        kinds, _ = scan(pages)
        chosen = np.ascontiguousarray(pages[kinds == NORMAL])
        raw += len(piece)
        normal += chosen.nbytes
        if len(chosen):
            began_ns = time.thread_time_ns()
            streams = codec.encode(chosen.data.cast("B"))
            encoded_ns = time.thread_time_ns()
            size_bytes = chosen.nbytes // len(streams)
            for stream in streams:
                wire += size_bytes if stream is None else len(memoryview(stream))
                if stream is not None:
                    codec.decode(memoryview(stream), size_bytes)
            encode_ns += encoded_ns - began_ns
            decode_ns += time.thread_time_ns() - encoded_ns
        if encode_ns + decode_ns > _BUDGET_NS:
            break
    if not raw:
        return None
    permille = max(_LEAST_PERMILLE, normal * 1000 // raw)
    base = DEFAULT_COSTS[CodecId.NONE]
    return CodecCost(
        max(1, wire * 1000 // raw),
        _speed(raw, encode_ns, base.encode_bytes_s, permille),
        _speed(raw, decode_ns, base.decode_bytes_s, permille),
    )


def _speed(raw: int, codec_ns: int, none_bytes_s: int, normal_permille: int) -> int:
    none_ns = raw * _NS_PER_S // none_bytes_s * normal_permille // TABLE_NORMAL_PERMILLE
    return max(1, raw * _NS_PER_S // max(1, none_ns + codec_ns))


def _pieces(images: Sequence[Path]) -> Iterator[bytes]:
    for path in images:
        try:
            with path.open("rb") as file:
                step = file.seek(0, 2) // _PIECES // PAGE_BYTES * PAGE_BYTES
                for number in range(_PIECES):
                    file.seek(number * step)
                    piece = file.read(_PIECE_BYTES)
                    yield piece[: len(piece) // PAGE_BYTES * PAGE_BYTES]
                    if not step:
                        break
        except OSError:
            # That it cannot be seen is said with its size.
            continue
