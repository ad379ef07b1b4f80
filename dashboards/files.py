"""Which files are made, and what is in them: dashboards as JSON, and the chart's copies of these and of the rules."""

import json
from pathlib import Path

from grafana_foundation_sdk.builders.dashboard import Dashboard
from grafana_foundation_sdk.cog.encoder import JSONEncoder

from dashboards import accelerators, fleet, host, migration

RULES = Path("dashboards/rules")
#: Where the dashboards are.
JSON = Path(__file__).parent / "json"
_CHART = Path("helm/kuaka/files")


def boards() -> dict[str, Dashboard]:
    """All dashboards by the name of their file."""
    return {
        "fleet": fleet.dashboard(),
        "migration": migration.dashboard(),
        "accelerators": accelerators.dashboard(),
        "host": host.dashboard(),
    }


def files(root: Path) -> dict[Path, str]:
    """All that is generated, by path; the rules are read from `root`."""
    made = {}
    for name, board in boards().items():
        text = json.dumps(board.build(), cls=JSONEncoder, indent=2, sort_keys=True) + "\n"
        made[root / JSON.relative_to(JSON.parents[1]) / f"kuaka-{name}.json"] = text
        made[root / _CHART / "dashboards" / f"kuaka-{name}.json"] = text
    for rules in sorted((root / RULES).glob("*.yaml")):
        made[root / _CHART / f"rules-{rules.name}"] = rules.read_text()
    return made
