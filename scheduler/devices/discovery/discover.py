"""The one entry: look at the machine, or at a recorded tree of one, and say what is there.

Looking changes nothing and waits for nothing; whatever a tree holds, the answer is an `Inventory`.
"""

from scheduler.devices.discovery.host import look_at_host
from scheduler.devices.discovery.idxd import find_idxd
from scheduler.devices.discovery.inventory import Inventory
from scheduler.devices.discovery.node import OpenNode, open_and_close
from scheduler.devices.discovery.qat import find_qat, find_qatmgr
from scheduler.devices.discovery.roots import Roots


def discover(roots: Roots | None = None, open_node: OpenNode = open_and_close) -> Inventory:
    """Everything below `roots`, by default this machine's; `open_node` tries whether a queue's node may be opened."""
    roots = roots or Roots()
    return Inventory(
        host=look_at_host(roots), idxd=find_idxd(roots, open_node), qat=find_qat(roots), qatmgr=find_qatmgr(roots)
    )
