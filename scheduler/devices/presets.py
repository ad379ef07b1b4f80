"""What the real devices' descriptors cost, where nobody has measured this host's: the figures of examples/devices."""

from scheduler.devices.cost import CostModel, OperationCost
from scheduler.devices.device import Operation
from scheduler.devices.iaa.device import IAA_COST
from scheduler.devices.qat.device import QAT_COST

#: By kind, per descriptor: a page of 4 KiB for DSA and IAA, a member of 64 KiB for QAT.
COSTS = {
    "dsa": CostModel({Operation.ZERO_SCAN: OperationCost(100, 124)}),
    "iaa": IAA_COST,
    "qat": QAT_COST,
}
#: Parallel servers of one device.
ENGINES = {"dsa": 4, "iaa": 2, "qat": 4}
