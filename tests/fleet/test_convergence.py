"""Which help comes when."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from pipeline.fleet.convergence import ConvergenceRules, Course, Help, next_help

SECOND_NS = 10**9
GIB = 1 << 30
ALLOWED = ConvergenceRules(allow_auto_converge=True)


def course(passes: float, *tried: Help, since_help_s: int = 10) -> Course:
    return Course(int(passes * GIB), GIB, frozenset(tried), since_help_s * SECOND_NS)


def test_help_comes_in_its_order_each_after_its_passes() -> None:
    assert next_help(course(1.9), ALLOWED) is None
    assert next_help(course(2.0), ALLOWED) is Help.MORE_WEIGHT
    assert next_help(course(2.9, Help.MORE_WEIGHT), ALLOWED) is None
    assert next_help(course(3.0, Help.MORE_WEIGHT), ALLOWED) is Help.AUTO_CONVERGE
    assert next_help(course(9.9, Help.MORE_WEIGHT, Help.AUTO_CONVERGE), ALLOWED) is None
    assert next_help(course(10.0, Help.MORE_WEIGHT, Help.AUTO_CONVERGE), ALLOWED) is Help.GIVE_UP


def test_a_guest_is_throttled_only_where_that_is_allowed() -> None:
    assert next_help(course(9.9, Help.MORE_WEIGHT), ConvergenceRules()) is None
    assert next_help(course(10.0, Help.MORE_WEIGHT), ConvergenceRules()) is Help.GIVE_UP


def test_what_was_tried_is_given_time_to_work() -> None:
    assert next_help(course(99.0, Help.MORE_WEIGHT, since_help_s=9), ALLOWED) is None


def test_nothing_is_known_of_a_guest_whose_memory_is_not_known() -> None:
    assert next_help(replace(course(99.0), memory_bytes=0), ALLOWED) is None


@given(st.lists(st.integers(0, 20_000), max_size=40), st.booleans())
def test_whatever_the_passes_nothing_is_tried_twice_or_out_of_order(passes: list[int], allow: bool) -> None:
    rules = ConvergenceRules(allow_auto_converge=allow)
    tried: list[Help] = []
    for per_mille in sorted(passes):
        step = next_help(Course(per_mille, 1000, tried, rules.patience_ns), rules)
        if step is not None:
            tried.append(step)
    order = list(Help) if allow else [Help.MORE_WEIGHT, Help.GIVE_UP]
    assert tried == order[: len(tried)]
