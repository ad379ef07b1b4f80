"""Accelerators of this host, from sysfs: what is there, what keeps it from use, and how it should be set up."""

from scheduler.devices.discovery.discover import discover
from scheduler.devices.discovery.inventory import Access, Inventory, Queue, usable_qat, usable_queues
from scheduler.devices.discovery.roots import Roots

__all__ = ["Access", "Inventory", "Queue", "Roots", "discover", "usable_qat", "usable_queues"]
