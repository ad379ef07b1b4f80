"""What a worker makes of the devices that a job names, and which codecs two ends agree on."""

import pytest

from pipeline.codecs.codec import CodecId
from pipeline.jobs import decode_offload
from pipeline.offload import Offload, OffloadDevice
from pipeline.offloaded import offered, offloaded_codec, offloaded_decoders, taken
from pipeline.wire.handshake import Hello, Role, agreed_codecs
from scheduler.devices.address import DeviceAddress

IAA, QAT, DSA = (OffloadDevice(DeviceAddress(kind, (f"/run/{kind}",), 64), 0) for kind in ("iaa", "qat", "dsa"))
DEFLATE, GZIP, RAW = CodecId.DEFLATE, CodecId.QAT, CodecId.QAT_RAW


def offload(*devices: OffloadDevice) -> Offload:
    return Offload("/nowhere/credit", devices)


def agreed(source: Offload | None, destination: Offload | None, codec: CodecId) -> tuple[CodecId, ...]:
    hello = Hello(Role.CHANNEL, "ab" * 16, 0, 1, codec, (codec, *offered(source, codec)))
    return agreed_codecs(hello, taken(destination))


@pytest.mark.parametrize(
    ("source", "destination", "codec", "expected"),
    [
        (None, None, DEFLATE, {DEFLATE}),
        (offload(IAA), None, DEFLATE, {DEFLATE}),
        (offload(IAA, QAT), None, DEFLATE, {DEFLATE, GZIP}),
        (offload(IAA, QAT), offload(QAT), DEFLATE, {DEFLATE, GZIP}),
        (offload(QAT), offload(DSA), DEFLATE, {DEFLATE, GZIP}),
        (offload(QAT), None, GZIP, {GZIP}),
        (offload(QAT), offload(IAA), GZIP, {GZIP}),
        (offload(QAT), offload(IAA), RAW, {RAW}),
        (offload(QAT), None, RAW, {RAW}),
        (offload(IAA, QAT), None, CodecId.ZSTD, {CodecId.ZSTD}),
    ],
)
def test_qat_is_offered_beside_deflate_where_it_is(
    source: Offload | None, destination: Offload | None, codec: CodecId, expected: set[CodecId]
) -> None:
    assert set(agreed(source, destination, codec)) == expected


@pytest.mark.parametrize("source", [offload(QAT), offload(IAA, QAT)])
@pytest.mark.parametrize("destination", [offload(IAA), offload(IAA, QAT)])
def test_window_of_32_kib_is_never_sent_to_a_destination_whose_iaa_decodes(
    source: Offload, destination: Offload
) -> None:
    codecs = agreed(source, destination, DEFLATE)
    assert GZIP not in codecs
    codec = offloaded_codec(source, DEFLATE, None, codecs)
    assert codec.codec_id is DEFLATE


@pytest.mark.parametrize("source", [offload(QAT), offload(IAA, QAT)])
def test_qat_makes_a_stream_of_each_page_for_a_destination_whose_iaa_decodes_and_for_no_other(source: Offload) -> None:
    assert agreed(source, offload(IAA), DEFLATE) == (DEFLATE, RAW)
    # By the page it is several times slower: whoever takes gzip-extended gets that.
    assert RAW not in agreed(source, offload(QAT), DEFLATE)
    assert RAW not in agreed(source, None, DEFLATE)


@pytest.mark.parametrize("version", [(), (GZIP,)], ids=["before qat", "before qat-raw"])
def test_destination_of_a_version_without_qat_raw_gets_deflate(version: tuple[CodecId, ...]) -> None:
    hello = Hello(Role.CHANNEL, "ab" * 16, 0, 1, DEFLATE, (DEFLATE, *offered(offload(QAT), DEFLATE)))
    assert agreed_codecs(hello, version) == (DEFLATE, *version)


def test_destination_has_a_decoder_for_each_codec_that_was_agreed_on() -> None:
    for codecs in ((DEFLATE, GZIP), (DEFLATE, RAW), (RAW,)):
        decoders = offloaded_decoders(None, codecs[0], codecs)
        assert [decoder.codec_id for decoder in decoders] == list(codecs)


def test_devices_survive_the_way_to_a_worker() -> None:
    there = offload(IAA, DSA)
    fields = {
        "table": there.table,
        "devices": [
            {"address": {"kind": kind, "paths": [f"/run/{kind}"], "slots": 64}, "row": 0} for kind in ("iaa", "dsa")
        ],
    }
    assert decode_offload(fields) == there


@pytest.mark.parametrize("broken", [{}, {"table": "t"}, {"table": "t", "devices": [{"row": 1}]}])
def test_broken_devices_are_refused(broken: dict[str, object]) -> None:
    with pytest.raises((KeyError, TypeError)):
        decode_offload(broken)
