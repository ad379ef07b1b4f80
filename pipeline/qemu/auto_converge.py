"""QEMU's auto-converge, so that it can be called for while a migration runs: it slows the guest's vCPUs down.

QEMU takes capabilities only before it migrates (migration/options.c), parameters at any time. So the capability is on
from the start with a ceiling of 1 %, which no guest notices, and help is a higher ceiling: QEMU then takes another step
after every round in which the guest wrote more than half of what was sent (migration/ram.c,
mig_throttle_guest_down).
"""

from collections.abc import Mapping

CAPABILITY = "auto-converge"
#: What is set before the migration starts; percent of the vCPUs' time.
AT_REST: Mapping[str, int] = {"cpu-throttle-initial": 1, "cpu-throttle-increment": 10, "max-cpu-throttle": 1}
#: What is set when help is called for; QEMU's own default.
CALLED_FOR: Mapping[str, int] = {"max-cpu-throttle": 99}
