"""Variables: what the reader chooses at the head of a dashboard. Every query goes to `$datasource`."""

from grafana_foundation_sdk.builders.dashboard import DatasourceVariable, QueryVariable
from grafana_foundation_sdk.models.dashboard import VariableOption, VariableRefresh, VariableSort

from dashboards.panels import SOURCE

Variable = DatasourceVariable | QueryVariable


def datasource() -> DatasourceVariable:
    """Which Prometheus is asked."""
    return DatasourceVariable("datasource").label("Data source").type("prometheus")


def label_values(name: str, heading: str, metric: str, label: str, many: bool = True) -> QueryVariable:
    """The values of a label, of those series that are there in the time that is shown; of `many`, all by default."""
    variable = (
        QueryVariable(name)
        .label(heading)
        .datasource(SOURCE)
        .query({"query": f"label_values({metric}, {label})", "refId": name})
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(VariableSort.NATURAL_ASC)
        .multi(many)
        .include_all(many)
    )
    if many:
        # A regular expression instead of a long list of names.
        variable.all_value(".*").current(VariableOption(text="All", value="$__all"))
    return variable
