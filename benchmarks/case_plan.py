"""What planning costs: 10 000 guests on 500 hosts, by the CPU of this process, and its memory.

Half of the hosts are emptied onto the other half, with links, bandwidth caps, priorities and guests that write, so that
admission has something to decide about. The spec is built as data: reading it from a file is not measured.
"""

import random
import resource
import time
from pathlib import Path
from typing import Any

from benchmarks.report import Figure, Report
from pipeline.fleet.plan.plan import make_plan
from pipeline.fleet.spec import Spec

_MACHINES, _HOSTS = 10_000, 500
_CPU_BOUND_S = 5.0
_MEMORY_BOUND_MIB = 500.0


def fleet(machines: int, hosts: int) -> Spec:
    """A fleet in which `hosts` / 2 are emptied onto the others; the same each time."""
    chance = random.Random(1)
    half = hosts // 2
    document: dict[str, Any] = {
        "apiVersion": "kuaka/v1",
        "kind": "Fleet",
        "metadata": {"name": "benchmark"},
        "spec": {
            "parallelMigrationsPerCluster": machines,
            "hosts": [{"name": f"h{n}", "node": f"h{n}", "linkCapacity": "1250MB"} for n in range(hosts)],
            "policies": [
                {
                    "name": f"p{n}",
                    "selector": {"tier": f"{n}"},
                    "bandwidthPerMigration": f"{200 + 100 * n}MB",
                    "priority": 20 * n,
                }
                for n in range(5)
            ],
            "virtualMachines": [
                {
                    "name": f"vm-{n}",
                    "kind": "qemu",
                    "labels": {"tier": f"{n % 7}", "number": f"{n}"},
                    "memory": f"{chance.choice((2, 4, 8, 16, 64))}GiB",
                    "dirtyRate": f"{chance.randrange(60)}MB",
                    "source": {"host": f"h{chance.randrange(half)}", "qmp": f"/run/{n}"},
                    "destination": {"host": f"h{half + chance.randrange(half)}", "qmp": f"/run/{n}"},
                }
                for n in range(machines)
            ],
        },
    }
    return Spec.model_validate(document, by_alias=True, by_name=False)


def run(report: Report, _folder: Path, runs: int) -> None:
    """The slowest of `runs`."""
    spec = fleet(_MACHINES, _HOSTS)
    taken = []
    for _ in range(runs):
        began_s = time.process_time()
        plan = make_plan(spec)
        taken.append(time.process_time() - began_s)
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    figures = [
        Figure("plan", f"{_MACHINES} machines on {_HOSTS} hosts, CPU", max(taken), " s", at_most=_CPU_BOUND_S),
        Figure("plan", "peak memory of the process", peak_mib, " MiB", at_most=_MEMORY_BOUND_MIB),
        Figure("plan", "lanes looked at for each machine", plan.looks / _MACHINES),
        Figure("plan", "speeds computed for each machine", plan.updates / _MACHINES),
    ]
    report.add("plan", [], figures)
