"""What is promised of `kuaka` at every point of a sweep, and where a run breaks it.

Of the policies that were run: total time at most 1.02 times the best one's; the worst VM no later than under `fifo`;
no more CPU time than `cpu`; no failure; at equal weights the worst VM within 1.1 times the average; and what a guest
that stands still waits for a device, p99 at most 1 ms. Where the link decides, all policies end with the same byte and
differ by which simulated batch that is in; differences below a thousandth are none.
"""

from collections.abc import Iterator, Mapping

from scheduler.simulate.results import RunResult

_TOTAL, _WORST, _CRITICAL_NS = 1.02, 1.1, 1_000_000
_SAME = 1.001


def broken(results: Mapping[str, RunResult]) -> Iterator[str]:
    """A line for each promise that the runs of one scenario do not keep; `results` has all four policies."""
    kuaka = results["kuaka"]
    best = min(results.values(), key=lambda result: result.makespan_ns)
    if kuaka.makespan_ns > _TOTAL * best.makespan_ns:
        yield f"total {_seconds(kuaka.makespan_ns)}, {best.policy} takes {_seconds(best.makespan_ns)}"
    if kuaka.worst_ns > _SAME * results["fifo"].worst_ns:
        yield f"worst VM {_seconds(kuaka.worst_ns)}, under fifo {_seconds(results['fifo'].worst_ns)}"
    if kuaka.cpu_ns > _SAME * results["cpu"].cpu_ns:
        yield f"CPU {_seconds(kuaka.cpu_ns)}, cpu takes {_seconds(results['cpu'].cpu_ns)}"
    if kuaka.failed:
        yield f"{kuaka.failed} failed"
    equal = len({vm.weight for vm in kuaka.vms}) == 1
    if equal and kuaka.worst_ns > _WORST * kuaka.mean_ns:
        yield f"worst VM {_seconds(kuaka.worst_ns)}, average {_seconds(kuaka.mean_ns)}"
    if kuaka.critical_wait_p99_ns() > _CRITICAL_NS:
        yield f"CRITICAL waits {kuaka.critical_wait_p99_ns() / 1e6:.2f} ms"


def _seconds(time_ns: float) -> str:
    return f"{time_ns / 1e9:.3f} s"
