"""Specs for tests of the plan."""

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


def fleet(*machines: dict[str, Any], **fields: Any) -> Spec:
    hosts = [{"name": name, "node": f"10.0.0.{number}"} for number, name in enumerate("abcd", start=1)]
    document = {
        "apiVersion": "kuaka/v1",
        "kind": "Fleet",
        "metadata": {"name": "test"},
        "spec": {"hosts": hosts, "virtualMachines": list(machines), **fields},
    }
    return Spec.model_validate(document, by_alias=True, by_name=False)
