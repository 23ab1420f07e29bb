"""Builds the Grafana dashboard of rhoselect: python deploy/grafana/dashboard.py [FILE]

Without FILE it rewrites dashboards/rhoselect.json beside it, which is checked in. Needs
grafana-foundation-sdk (in the extra "dev"). What is shown stands in panels.py.
"""

from __future__ import annotations

import sys
from itertools import count
from pathlib import Path

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import (
    BigValueColorMode,
    BigValueGraphMode,
    LegendDisplayMode,
    LegendPlacement,
    StackingMode,
)
from grafana_foundation_sdk.models.dashboard import DataSourceRef, VariableRefresh

from panels import AUDITS, ROWS, Panel

OUT = Path(__file__).with_name("dashboards") / "rhoselect.json"
SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
PAGE_WIDTH, PANEL_HEIGHT, NUMBER_HEIGHT = 24, 8, 4
NUMBERS_IN_LINE, PANELS_IN_LINE, WIDE_IN_LINE = 6, 3, 2
Built = timeseries.Panel | stat.Panel


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
            page = page.with_panel(built(panel).id(next(numbers)))
    audits = dashboard.Row("Audits (selection.audit_every)").id(next(numbers)).collapsed(True)
    for panel in AUDITS:
        audits = audits.with_panel(built(panel).id(next(numbers)))
    return page.with_row(audits)


def built(panel: Panel) -> Built:
    """The panel as Grafana's, with its queries."""
    made = number(panel) if panel.kind == "number" else chart(panel)
    made = made.title(panel.title).description(panel.about).datasource(SOURCE).unit(panel.unit)
    for ref, (legend, query) in zip("ABCDEF", panel.queries.items(), strict=False):
        target = prometheus.Dataquery().expr(query).legend_format(legend).ref_id(ref)
        made = made.with_target(target)
    return made


def number(panel: Panel) -> stat.Panel:
    """The last value, and a faint curve behind it."""
    return (
        stat.Panel()
        .graph_mode(BigValueGraphMode.AREA)
        .color_mode(BigValueColorMode.NONE)
        .span(PAGE_WIDTH // NUMBERS_IN_LINE)
        .height(NUMBER_HEIGHT)
    )


def chart(panel: Panel) -> timeseries.Panel:
    """Curves or a stack over time; a legend of many stands beside them, with the last values."""
    legend = common.VizLegendOptions().show_legend(True)
    if panel.wide and panel.kind == "stack":
        legend = legend.display_mode(LegendDisplayMode.TABLE).calcs(["lastNotNull"])
        legend = legend.placement(LegendPlacement.RIGHT).sort_by("Last *").sort_desc(True)
    else:
        legend = legend.display_mode(LegendDisplayMode.LIST)
        legend = legend.placement(LegendPlacement.BOTTOM)
    made = (
        timeseries.Panel()
        .axis_soft_min(0)
        .legend(legend)
        .span(PAGE_WIDTH // (WIDE_IN_LINE if panel.wide else PANELS_IN_LINE))
        .height(PANEL_HEIGHT)
    )
    if panel.kind == "stack":
        made = made.fill_opacity(40).stacking(common.StackingConfig().mode(StackingMode.NORMAL))
        if panel.unit == "percentunit":
            made = made.max(1)
    return made


def main() -> None:
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else OUT
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(JSONEncoder(indent=2, sort_keys=True).encode(build().build()) + "\n")


if __name__ == "__main__":
    main()
