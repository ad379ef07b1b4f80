"""What is committed is what the code makes, and the chart has the same."""

import json
from pathlib import Path

from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard

from dashboards.files import boards, files

ROOT = Path(__file__).parent.parent.parent


def test_every_committed_file_is_what_the_code_makes() -> None:
    made = files(ROOT)
    stale = [
        str(path.relative_to(ROOT)) for path, text in made.items() if not path.is_file() or path.read_text() != text
    ]
    assert stale == [], "run `make dashboards`"


def test_nothing_lies_beside_them_that_no_code_makes() -> None:
    made = files(ROOT)
    directories = (ROOT / "dashboards/json", ROOT / "helm/kuaka/files/dashboards")
    assert [path for directory in directories for path in directory.iterdir() if path not in made] == []


def test_the_chart_carries_every_dashboard_and_every_rule_file() -> None:
    chart = {path.relative_to(ROOT / "helm/kuaka/files").as_posix() for path in files(ROOT) if "helm" in path.parts}
    rules = {f"rules-{path.name}" for path in (ROOT / "dashboards/rules").glob("*.yaml")}
    assert chart == {f"dashboards/kuaka-{name}.json" for name in boards()} | rules
    assert rules


def test_grafanas_schema_reads_a_dashboard_and_loses_nothing() -> None:
    for name in boards():
        text = (ROOT / f"dashboards/json/kuaka-{name}.json").read_text()
        read = Dashboard.from_json(json.loads(text))
        assert json.loads(json.dumps(read, cls=JSONEncoder)) == json.loads(text)
