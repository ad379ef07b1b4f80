import pytest

from scheduler.simulate.calibration import simulate_row
from scheduler.simulate.published import ROWS, Row, Use

_IDS = [f"{row.section}-{row.name}-{row.channels}".replace(" ", "-") for row in ROWS]


@pytest.mark.parametrize("row", ROWS, ids=_IDS)
def test_published_time_comes_out(row: Row) -> None:
    comparison = simulate_row(row)
    limit = {Use.FITTED: 0.05, Use.PREDICTED: 0.15, Use.REPORTED: 0.30}[row.use]
    assert comparison.ratio == pytest.approx(1, abs=limit)


def test_only_the_rows_that_may_be_fitted_are() -> None:
    fitted = {(row.section, row.channels, row.name) for row in ROWS if row.use is Use.FITTED}
    assert fitted == {
        *((2, 4, name) for name in ("qatzip", "zlib", "zstd", "none")),
        *((3, 8, name) for name in ("half-normal cpu", "all-zero cpu")),
        (4, 4, "qpl always-wait"),
    }


def test_only_two_rows_are_promised_nothing() -> None:
    reported = {(row.name, row.channels) for row in ROWS if row.use is Use.REPORTED}
    assert reported == {("none", 16), ("qatzip", 16)}
