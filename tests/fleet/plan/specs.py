"""Specs for tests of the plan."""

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.fleet.spec import Spec

GIB = 1 << 30


def guest(name: str, source: str = "a", destination: str = "b", **fields: Any) -> dict[str, Any]:
    return {
        "name": name,
        "kind": "qemu",
        "memory": "1GiB",
        "source": {"host": source, "qmp": f"/run/{name}.qmp"},
        "destination": {"host": destination, "qmp": f"/run/to/{name}.qmp"},
        **fields,
    }


def image(name: str, source: str = "a", destination: str = "b", **fields: Any) -> dict[str, Any]:
    return {
        "name": name,
        "kind": "image",
        "memory": "1GiB",
        "source": {"host": source, "path": f"/from/{name}"},
        "destination": {"host": destination, "path": f"/to/{name}"},
        **fields,
    }


def document(
    hosts: Sequence[Mapping[str, Any]], machines: Sequence[Mapping[str, Any]], name: str = "test", /, **fields: Any
) -> dict[str, Any]:
    """A spec as its file has it."""
    return {
        "apiVersion": "kuaka/v1",
        "kind": "Fleet",
        "metadata": {"name": name},
        "spec": {"hosts": list(hosts), "virtualMachines": list(machines), **fields},
    }


def fleet(*machines: dict[str, Any], **fields: Any) -> Spec:
    hosts = [{"name": name, "node": f"10.0.0.{number}"} for number, name in enumerate("abcd", start=1)]
    return Spec.model_validate(document(hosts, machines, **fields), by_alias=True, by_name=False)
