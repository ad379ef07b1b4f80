"""The software path's codec against zlib: the stand-in's own, or libqpl's where this machine has it."""

import zlib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scheduler.devices.iaa.libqpl import Library
from tests.scheduler.devices.iaa.raw_job import SOFTWARE, RawJob

MOST_BYTES = 20_000
#: Runs, repeats and noise: what deflate has a case for.
DATA = st.lists(
    st.one_of(
        st.binary(min_size=1, max_size=300),
        st.builds(bytes.__mul__, st.binary(min_size=1, max_size=40), st.integers(1, 200)),
    ),
    min_size=1,
    max_size=12,
).map(lambda parts: b"".join(parts)[:MOST_BYTES])
fixture_is_shared = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)


@pytest.fixture
def job(library: Library) -> RawJob:
    return RawJob(library, SOFTWARE)


@fixture_is_shared
@given(DATA)
def test_what_it_compresses_zlib_reads_and_it_reads_itself(job: RawJob, data: bytes) -> None:
    assert job.compress(data, len(data) + 100) == 0
    stream = job.written
    assert zlib.decompress(stream, -15) == data
    assert job.decompress(stream, len(data)) == 0
    assert job.written == data
    if len(data) > 1:
        assert job.decompress(stream, len(data) - 1) in (2, 225)


@fixture_is_shared
@given(
    DATA, st.sampled_from([0, 1, 6, 9]), st.sampled_from([zlib.Z_DEFAULT_STRATEGY, zlib.Z_FIXED, zlib.Z_HUFFMAN_ONLY])
)
def test_it_reads_what_zlib_compresses_with_a_window_of_4_kib(
    job: RawJob, data: bytes, level: int, strategy: int
) -> None:
    deflate = zlib.compressobj(level, zlib.DEFLATED, -12, 9, strategy)
    assert job.decompress(deflate.compress(data) + deflate.flush(), len(data)) == 0
    assert job.written == data


@fixture_is_shared
@given(DATA, st.integers(0, 2**32), st.integers(1, 255))
def test_stream_with_a_flipped_bit_is_refused_or_decodes_as_zlib_has_it(
    job: RawJob, data: bytes, place: int, flip: int
) -> None:
    deflate = zlib.compressobj(6, zlib.DEFLATED, -12)
    stream = bytearray(deflate.compress(data) + deflate.flush())
    stream[place % len(stream)] ^= flip
    inflate = zlib.decompressobj(-12)
    try:
        expected = inflate.decompress(bytes(stream), MOST_BYTES)
    except zlib.error:
        expected = None
    if job.decompress(bytes(stream), MOST_BYTES) == 0:
        assert (job.written, inflate.eof) == (expected, True)


@fixture_is_shared
@given(st.binary(min_size=1, max_size=200), st.integers(1, 5000))
def test_bytes_that_are_no_stream_never_write_beyond_the_room(job: RawJob, stream: bytes, capacity_bytes: int) -> None:
    job.decompress(stream, capacity_bytes)
    assert job.field("total_out") <= capacity_bytes
