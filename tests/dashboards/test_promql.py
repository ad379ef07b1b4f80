"""The lint sees every name in a query, or it would let a wrong one through."""

import pytest

from tests.dashboards.promql import grouped_labels, matched_labels, metrics


@pytest.mark.parametrize(
    ("expr", "names"),
    [
        ("sum(a)", {"a"}),
        ('sum by (x) (rate(a_total{y="b", z=~"$c"}[$__rate_interval])) / on (x) group_left () b', {"a_total", "b"}),
        ("histogram_quantile(0.99, sum by (le) (increase(a_bucket[1h])))", {"a_bucket"}),
        (
            'max by (host) (label_replace(a{p=~"R|S"}, "host", "$1", "source", "(.+)") or b) unless on (host) c',
            {"a", "b", "c"},
        ),
        ("level:a:rate5m > 0.001 and on () d offset 10m == bool 1", {"level:a:rate5m", "d"}),
        ("time() - max(a) or vector(0)", {"a"}),
        ("a * on (f, v) group_left (k) max by (f, v) (b)", {"a", "b"}),
    ],
)
def test_all_metrics_are_found_and_nothing_else(expr: str, names: set[str]) -> None:
    assert metrics(expr) == names


def test_labels_are_found_in_braces_and_in_groupings() -> None:
    expr = 'sum by (a, b) (m{c="x", d!~"y,z"}) * on (a) group_left (e) n{f=~"$g"}'
    assert dict(matched_labels(expr)) == {"m": {"c", "d"}, "n": {"f"}}
    assert grouped_labels(expr) == {"a", "b", "e"}
