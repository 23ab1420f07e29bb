"""Builds the Grafana dashboard of rhoselect: python deploy/grafana/dashboard.py [FILE]

Without FILE it rewrites dashboards/rhoselect.json beside it, which is checked in. Needs
grafana-foundation-sdk (in the extra "dev"). What is shown stands in panels.py.
"""

from __future__ import annotations

import sys
from itertools import count
from pathlib import Path

from grafana_foundation_sdk.builders import common, dashboard, prometheus, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import StackingMode
from grafana_foundation_sdk.models.dashboard import DataSourceRef, VariableRefresh

from panels import ROWS, Panel

OUT = Path(__file__).with_name("dashboards") / "rhoselect.json"
SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
PANELS_IN_LINE, PAGE_WIDTH, PANEL_HEIGHT = 3, 24, 8


def build() -> dashboard.Dashboard:
    """The whole page: a row of panels a subject."""
    page = (
        dashboard.Dashboard("rhoselect")
        .uid("rhoselect")
        .tags(["rhoselect"])
        .readonly()
        .refresh("10s")
        .time("now-30m", "now")
        .with_variable(dashboard.DatasourceVariable("datasource").type("prometheus"))
        .with_variable(
            dashboard.QueryVariable("run")
            .datasource(SOURCE)
            .query("label_values(rho_build_info, run)")
            .multi(True)
            .include_all(True)
            .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        )
    )
    numbers = count(1)
    for title, panels in ROWS.items():
        page = page.with_row(dashboard.Row(title).id(next(numbers)))
        for panel in panels:
            page = page.with_panel(chart(panel).id(next(numbers)))
    return page


def chart(panel: Panel) -> timeseries.Panel:
    """The panel as Grafana's time series."""
    built = (
        timeseries.Panel()
        .title(panel.title)
        .description(panel.about)
        .datasource(SOURCE)
        .unit(panel.unit)
        .axis_soft_min(0)
        .span(PAGE_WIDTH // PANELS_IN_LINE)
        .height(PANEL_HEIGHT)
    )
    if panel.stacked:
        built = built.fill_opacity(40).stacking(common.StackingConfig().mode(StackingMode.NORMAL))
    for ref, (legend, query) in zip("ABCDEF", panel.queries.items(), strict=False):
        target = prometheus.Dataquery().expr(query).legend_format(legend).ref_id(ref)
        built = built.with_target(target)
    return built


def main() -> None:
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else OUT
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(JSONEncoder(indent=2, sort_keys=True).encode(build().build()) + "\n")


if __name__ == "__main__":
    main()
