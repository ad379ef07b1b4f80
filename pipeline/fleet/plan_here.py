"""The plan as this machine sees it: its sources are looked at, pages of its images tried, and its cores count as far as
others leave them."""

import os
from collections.abc import Callable
from dataclasses import replace

from pipeline.fleet.machine_load import others_running, spare_cores
from pipeline.fleet.page_samples import sampled_costs
from pipeline.fleet.plan.from_spec import Assumptions, is_local
from pipeline.fleet.plan.plan import Plan, make_plan
from pipeline.fleet.sightings import look
from pipeline.fleet.spec import Spec


def plan_here(spec: Spec, workers: int, say: Callable[[str], None] = lambda text: None) -> Plan:
    """Plan a checked spec with so many worker processes per host; `say` gets a line about a machine that is busy."""
    seen = replace(look(spec), costs=sampled_costs(spec))
    return make_plan(spec, seen, Assumptions(workers=workers, local_cores=_local_cores(spec, workers, say)))


def _local_cores(spec: Spec, workers: int, say: Callable[[str], None]) -> float | None:
    here = sum(is_local(host) for host in spec.spec.hosts)
    if not here:
        return None
    cores, others = len(os.sched_getaffinity(0)), others_running()
    spare = spare_cores(cores, here * workers, others)
    if others >= 1 and spare < min(cores, here * workers):
        say(f"{others:.0f} other processes are running here: {spare:.1f} of {cores} cores are taken to be free")
    return spare
