"""The `kuaka` command's own part: every error is lines that begin alike, and an exit code."""

import sys
from pathlib import Path

import pytest

from pipeline.cli import main
from pipeline.codecs.codec import codec_names
from pipeline.errors import ExitCode

BROKEN_SPEC = """
apiVersion: kuaka/v1
kind: Fleet
metadata: {name: broken}
spec:
  codec: brotli
  channels: 0
  hosts: [{name: a}]
  virtualMachines: [{name: i, kind: image, source: {host: a, path: /a}, destination: {host: b, path: /b}}]
"""


def ended(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int | str | None:
    """The code that the command ends with."""
    monkeypatch.setattr(sys, "argv", ["kuaka", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    return end.value.code


def test_each_problem_of_a_spec_is_a_line_that_says_who_speaks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = tmp_path / "fleet.yaml"
    spec.write_text(BROKEN_SPEC)
    assert ended(monkeypatch, "migrate", str(spec)) == ExitCode.SPEC_REJECTED
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.splitlines() == [
        f"kuaka: {spec}: spec.codec: codec 'brotli' is unknown: choose one of {', '.join(codec_names())}",
        f"kuaka: {spec}: spec.channels: 0 cannot be: it should be greater than or equal to 1",
        f"kuaka: {spec}: spec.virtualMachines[0].destination.host: there is no host 'b': add it to spec.hosts",
    ]


def test_an_address_of_another_machine_is_refused_in_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("gateway", "destination", "--plain", "--listen", "203.0.113.1:0", "--qemu", "/nowhere")
    assert ended(monkeypatch, *arguments) == ExitCode.USAGE
    assert capsys.readouterr().err == (
        "kuaka: cannot listen at 203.0.113.1:0: Cannot assign requested address:"
        " give an address of this host and a free port\n"
    )
