"""Run a study: each of its scenarios under each policy."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from scheduler.simulate.fit import calibrated
from scheduler.simulate.hardware import Fifo, Retry
from scheduler.simulate.kuaka import Kuaka
from scheduler.simulate.policy import Indifferent, Policy
from scheduler.simulate.results import RunResult, collect
from scheduler.simulate.scenario import Scenario
from scheduler.simulate.scenarios import Parameters, Study
from scheduler.simulate.world import World

#: In the order of tables.
POLICIES: dict[str, Callable[[], Policy]] = {"cpu": Indifferent, "fifo": Fifo, "retry": Retry, "kuaka": Kuaka}


@dataclass(frozen=True, slots=True)
class StudyResult:
    """Figures of the contended case and of each point of the sweep, by policy."""

    name: str
    seed: int
    contended: dict[str, RunResult]
    sweep: tuple[tuple[Parameters, dict[str, RunResult]], ...]

    def as_json(self) -> dict[str, Any]:
        """As `kuaka simulate -o json` prints it."""
        return {
            "scenario": self.name,
            "seed": self.seed,
            "policies": {name: result.as_json() for name, result in self.contended.items()},
            "sweep": [
                {"parameters": parameters, "policies": {name: result.as_json() for name, result in results.items()}}
                for parameters, results in self.sweep
            ],
        }


def run_scenario(scenario: Scenario, policy: str) -> RunResult:
    """One run. Raises KeyError for a policy there is none of."""
    world = World(scenario, POLICIES[policy](), calibrated())
    world.run()
    return collect(world)


def run_study(
    name: str, seed: int, study: Study, policies: Sequence[str], on_progress: Callable[[int, int], None]
) -> StudyResult:
    """All of it; `on_progress` is told how many of how many scenarios are done."""
    scenarios = [study.contended, *(scenario for _, scenario in study.sweep)]
    results = []
    for done, scenario in enumerate(scenarios):
        on_progress(done, len(scenarios))
        results.append({policy: run_scenario(scenario, policy) for policy in policies})
    on_progress(len(scenarios), len(scenarios))
    parameters = [point for point, _ in study.sweep]
    return StudyResult(name, seed, results[0], tuple(zip(parameters, results[1:], strict=True)))
