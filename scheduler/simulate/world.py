"""One run: a scenario under a policy, from the first submission until every migration has ended.

Deterministic: time is integer ns, ties are broken by order of creation, and the only randomness is the generator that
a scenario was made with.
"""

import simpy

from scheduler.simulate.host import Host, Process
from scheduler.simulate.migration import Migration
from scheduler.simulate.parameters import PACKET_PAGES, Parameters
from scheduler.simulate.policy import Policy
from scheduler.simulate.scenario import Scenario, VmSpec


class World:
    """Everything in one place for policies and results to look at."""

    def __init__(self, scenario: Scenario, policy: Policy, parameters: Parameters) -> None:
        self.env = simpy.Environment()
        self.scenario = scenario
        self.policy = policy
        self.parameters = parameters
        self.codec = parameters.codecs[scenario.workload.codec]
        self.scale = scenario.batch_pages // PACKET_PAGES
        self.hosts = {spec.name: Host(self.env, spec, parameters, self.scale) for spec in scenario.hosts}
        #: (ns, who, what), in order: the same for the same seed.
        self.trace: list[tuple[int, str, str]] = []
        self.migrations: list[Migration] = []

    def run(self) -> None:
        """Run to the end."""
        self.migrations = [Migration(self, spec, index) for index, spec in enumerate(self.scenario.vms)]
        self.policy.attach(self)
        submitted = [self.env.process(self._submit(migration)) for migration in self.migrations]
        self.env.process(self._faults())
        self.env.run(until=self.env.all_of(submitted))

    def log(self, who: str, what: str) -> None:
        """Add a line to the trace."""
        self.trace.append((int(self.env.now), who, what))

    def _submit(self, migration: Migration) -> Process:
        spec: VmSpec = migration.spec
        yield self.env.timeout(spec.submitted_ns)
        self.log(spec.name, "submitted")
        yield from migration.run()

    def _faults(self) -> Process:
        for fault in sorted(self.scenario.faults, key=lambda fault: fault.at_ns):
            yield self.env.timeout(fault.at_ns - int(self.env.now))
            for device in self.hosts[fault.host].devices.get(fault.kind, []):
                if fault.up:
                    device.open()
                else:
                    device.close()
                self.log(device.name, "up" if fault.up else "down")
