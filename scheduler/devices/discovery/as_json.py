"""An inventory and a report as JSON: a public form, so each name stands here.

Amounts keep the units of their names; what could not be read is null.
"""

from typing import Any

from scheduler.devices.discovery.findings import Report
from scheduler.devices.discovery.inventory import Host, IdxdDevice, Inventory, QatDevice, Qatmgr, Queue


def inventory_json(inventory: Inventory) -> dict[str, Any]:
    """Everything that was found."""
    return {
        "host": _host(inventory.host),
        "devices": [_device(device) for device in inventory.idxd],
        "qat": [_qat(device) for device in inventory.qat],
        "qatmgr": _qatmgr(inventory.qatmgr),
    }


def report_json(report: Report) -> dict[str, Any]:
    """Findings, and which kinds can be used."""
    return {
        "usable": {kind.value: usable for kind, usable in report.usable.items()},
        "libraries": {f"lib{name}": where for name, where in report.libraries.items()},
        "findings": [
            {
                "code": finding.code,
                "kind": None if finding.kind is None else finding.kind.value,
                "weight": finding.weight.value,
                "where": list(finding.where),
                "what": finding.what,
                "remedy": finding.remedy,
            }
            for finding in report.findings
        ],
    }


def _host(host: Host) -> dict[str, Any]:
    return {
        "kernel": host.kernel,
        "iommu_on": host.iommu_on,
        "iommu_scalable_mode": host.scalable_mode,
        "may_map_portals": host.may_map_portals,
        "without_driver": [{"kind": kind.value, "address": address} for kind, address in host.unbound],
    }


def _device(device: IdxdDevice) -> dict[str, Any]:
    return {
        "name": device.name,
        "kind": device.kind.value,
        "state": device.state,
        "numa_node": device.numa_node,
        "version": None if device.version is None else f"{device.version:#x}",
        "max_queues": device.max_queues,
        "max_entries": device.max_entries,
        "max_groups": device.max_groups,
        "max_engines": device.max_engines,
        "max_batch": device.max_batch,
        "max_transfer_bytes": device.max_transfer_bytes,
        "pasid_enabled": device.pasid_enabled,
        "configurable": device.configurable,
        "clients": device.clients,
        "command_status": device.command_status,
        "groups": [
            {"name": group.name, "engines": list(group.engines), "queues": list(group.queues)}
            for group in device.groups
        ],
        "engines": [{"name": engine.name, "group": engine.group} for engine in device.engines],
        "queues": [_queue(queue) for queue in device.queues],
        "problems": list(device.problems),
    }


def _queue(queue: Queue) -> dict[str, Any]:
    owner = queue.owner
    return {
        "name": queue.name,
        "label": queue.label,
        "state": queue.state,
        "type": queue.type,
        "mode": queue.mode,
        "size": queue.size,
        "threshold": queue.threshold,
        "slots": queue.slots,
        "priority": queue.priority,
        "group": queue.group,
        "max_batch": queue.max_batch,
        "max_transfer_bytes": queue.max_transfer_bytes,
        "block_on_fault": queue.block_on_fault,
        "prs_disabled": queue.prs_disabled,
        "clients": queue.clients,
        "driver": queue.driver,
        "node": str(queue.node),
        "owner": None if owner is None else {"uid": owner.uid, "gid": owner.gid, "mode": f"{owner.mode:04o}"},
        "access": queue.access.value,
        "access_detail": queue.access_detail,
    }


def _qat(device: QatDevice) -> dict[str, Any]:
    return {
        "address": device.address,
        "driver": device.driver,
        "state": device.state,
        "services": None if device.services is None else list(device.services),
        "numa_node": device.numa_node,
        "functions": device.functions,
        "rate_limits": device.rate_limits,
        "problems": list(device.problems),
    }


def _qatmgr(qatmgr: Qatmgr) -> dict[str, Any]:
    return {
        "socket": str(qatmgr.socket),
        "present": qatmgr.present,
        "permitted": qatmgr.permitted,
        "policy": qatmgr.policy,
        "problems": list(qatmgr.problems),
    }
