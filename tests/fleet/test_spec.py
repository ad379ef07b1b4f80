"""What the models accept, and the settings that hold in the end."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from pipeline.codecs.codec import CodecId
from pipeline.fleet.spec import HostSpec, ImageVm, QemuDestination, QemuVm, Spec, resolve
from pipeline.wire.tls import TlsFiles

TLS = {"ca": "/t/ca.pem", "certificate": "/t/a.pem", "key": "/t/a.key"}
OTHER_TLS = {"ca": "/u/ca.pem", "certificate": "/u/b.pem", "key": "/u/b.key"}


def qemu(**fields: Any) -> dict[str, Any]:
    return {
        "name": "db-1",
        "kind": "qemu",
        "source": {"host": "a", "qmp": "/run/a.qmp"},
        "destination": {"host": "b", "qmp": "/run/b.qmp"},
        **fields,
    }


def image(**fields: Any) -> dict[str, Any]:
    return {
        "name": "old-1",
        "kind": "image",
        "source": {"host": "a", "path": "/images/1"},
        "destination": {"host": "b", "path": "/images/2"},
        **fields,
    }


def spec(*machines: dict[str, Any], **fields: Any) -> Spec:
    return Spec.model_validate(
        {
            "apiVersion": "kuaka/v1",
            "kind": "Fleet",
            "metadata": {"name": "test"},
            "spec": {"hosts": [{"name": "a"}, {"name": "b"}], "virtualMachines": list(machines), **fields},
        },
        by_alias=True,
        by_name=False,
    )


def test_the_least_spec_has_every_default() -> None:
    parsed = spec(qemu(), image())
    settings = resolve(parsed, parsed.spec.virtual_machines[0])
    assert (settings.codec, settings.level, settings.channels) == (CodecId.ZSTD, None, 4)
    assert (settings.downtime_limit_ms, settings.timeout_s, settings.allow_plain) == (300, None, False)
    assert settings.source == HostSpec(name="a", address="127.0.0.1")
    assert (settings.source_tls, settings.destination_tls) == (None, None)


def test_kinds_have_their_own_fields() -> None:
    live, file = spec(
        qemu(zeroPageDetection="legacy", socketUser="libvirt-qemu"),
        image(destination={"host": "b", "path": "/images/2", "reuse": "/images/spare", "overwrite": True}),
    ).spec.virtual_machines
    assert isinstance(live, QemuVm)
    assert (live.zero_page_detection, live.socket_user) == ("legacy", "libvirt-qemu")
    assert live.source.qmp == Path("/run/a.qmp")
    assert isinstance(file, ImageVm)
    assert (file.destination.reuse, file.destination.overwrite) == (Path("/images/spare"), True)


@pytest.mark.parametrize(
    ("command", "read"),
    [(["rm", "-f", "/x"], ("rm", "-f", "/x")), ("start 'a b' | tee /x", "start 'a b' | tee /x"), (None, None)],
)
def test_a_command_is_words_or_one_string_for_the_shell(command: Any, read: Any) -> None:
    assert QemuDestination.model_validate({"host": "b", "qmp": "/q", "prepare": command}).prepare == read


@pytest.mark.parametrize("command", [[], "", "  ", [""], [1], {"a": 1}, 7, ["a", "b\0"], ["x" * 70_000]])
def test_what_cannot_be_run_is_no_command(command: Any) -> None:
    with pytest.raises(ValidationError, match="no command") as caught:
        QemuDestination.model_validate({"host": "b", "qmp": "/q", "cleanup": command})
    assert caught.value.error_count() == 1


def test_a_machines_own_settings_win() -> None:
    parsed = spec(
        qemu(codec="lz4", level=8, channels=2, downtimeLimitMs=50),
        codec="deflate",
        level=2,
        channels=16,
        downtimeLimitMs=1000,
        timeoutSeconds=60,
    )
    settings = resolve(parsed, parsed.spec.virtual_machines[0])
    assert (settings.codec, settings.level, settings.channels) == (CodecId.LZ4, 8, 2)
    assert (settings.downtime_limit_ms, settings.timeout_s) == (50, 60)


@pytest.mark.parametrize(
    ("own", "level"),
    [({}, 9), ({"codec": "zstd"}, 9), ({"level": 3}, 3), ({"codec": "lz4"}, None), ({"codec": "lz4", "level": 2}, 2)],
)
def test_a_level_belongs_to_its_codec(own: dict[str, Any], level: int | None) -> None:
    parsed = spec(image(**own), codec="zstd", level=9)
    assert resolve(parsed, parsed.spec.virtual_machines[0]).level == level


def test_a_hosts_own_tls_files_win() -> None:
    parsed = spec(qemu(), hosts=[{"name": "a"}, {"name": "b", "tls": OTHER_TLS}], tls=TLS)
    settings = resolve(parsed, parsed.spec.virtual_machines[0])
    assert settings.source_tls == TlsFiles(Path("/t/ca.pem"), Path("/t/a.pem"), Path("/t/a.key"))
    assert settings.destination_tls == TlsFiles(Path("/u/ca.pem"), Path("/u/b.pem"), Path("/u/b.key"))


@pytest.mark.parametrize(
    "machine",
    [
        qemu(name=""),
        qemu(name="../x"),
        qemu(name="-x"),
        qemu(name="x" * 64),
        qemu(name="a\n"),
        qemu(channels=0),
        qemu(channels=256),
        qemu(channels=True),
        qemu(channels=2.0),
        qemu(downtimeLimitMs=0),
        qemu(downtimeLimitMs=2_000_001),
        qemu(codec="gzip"),
        qemu(codec="ZSTD"),
        qemu(zeroPageDetection="auto"),
        qemu(source={"host": "a", "qmp": "run/a.qmp"}),
        qemu(source={"host": "a", "qmp": "/run/\na.qmp"}),
        qemu(source={"host": "a", "path": "/run/a.qmp"}),
        image(downtimeLimitMs=5),
        image(destination={"host": "b", "path": "/x", "overwrite": "yes"}),
        image(surprise=1),
    ],
)
def test_what_a_machine_cannot_be_is_one_problem(machine: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as caught:
        spec(machine)
    assert len({error["loc"][-1] for error in caught.value.errors()}) <= 2
    assert all(error["loc"][:3] == ("spec", "virtualMachines", 0) for error in caught.value.errors())


@pytest.mark.parametrize("address", ["10.0.0.1", "fd00::1", "host-a.example", "localhost", "fe80::1%eth0"])
def test_addresses(address: str) -> None:
    assert HostSpec.model_validate({"name": "a", "address": address}).address == address


@pytest.mark.parametrize("address", ["", "10.0.0.1:80", "a b", "http://a", "a/", "x" * 300])
def test_what_is_no_address(address: str) -> None:
    with pytest.raises(ValidationError, match="no address"):
        HostSpec.model_validate({"name": "a", "address": address})


@pytest.mark.parametrize("seconds", [0, -1, float("inf"), float("nan"), "60"])
def test_a_timeout_is_a_positive_number(seconds: Any) -> None:
    with pytest.raises(ValidationError):
        spec(qemu(), timeoutSeconds=seconds)


def test_a_fleet_without_machines_or_hosts_is_none() -> None:
    with pytest.raises(ValidationError):
        spec()
    with pytest.raises(ValidationError):
        spec(qemu(), hosts=[])


def test_a_spec_does_not_change() -> None:
    parsed = spec(qemu())
    with pytest.raises(ValidationError, match="frozen"):
        parsed.spec.channels = 3  # type: ignore[misc]
    with pytest.raises(KeyError):
        parsed.host("nowhere")


@pytest.mark.parametrize(
    ("given", "rate"), [("50MB", 50_000_000), ("1MiB/s", 1 << 20), (200_000, 200_000), (None, None)]
)
def test_bandwidth_is_an_amount_or_a_number(given: Any, rate: int | None) -> None:
    parsed = spec(qemu(), bandwidthPerMigration=given)
    assert resolve(parsed, parsed.spec.virtual_machines[0]).bandwidth_bytes_s == rate


@pytest.mark.parametrize("given", ["fast", "1kB", 0, True, 1.5, "9" * 15])
def test_a_bandwidth_that_cannot_be_is_refused(given: Any) -> None:
    with pytest.raises(ValidationError, match="bandwidthPerMigration"):
        spec(qemu(), bandwidthPerMigration=given)
