"""What all boards are made of: rows of panels, each a title, a text and queries.

`@` in a query stands for the labels that choose what the board shows.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from grafana_foundation_sdk.builders import bargauge, common, dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.models import common as kinds
from grafana_foundation_sdk.models import dashboard as models

SWARM = 'job="talkoot", swarm=~"$swarm"'
"""All nodes of a swarm."""
NODES = SWARM + ', instance=~"$instance"'
"""The chosen nodes of it."""

SOURCE = models.DataSourceRef(type_val="prometheus", uid="${datasource}")
WIDTH = 24
"""Units of width of a board, as Grafana has it."""

Query = tuple[str, str]
"""PromQL and the name of each line, with `{{label}}`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Panel:
    """One picture."""

    title: str
    text: str
    """What it shows, and what to look for: the tooltip of its title."""
    queries: tuple[Query, ...]
    unit: str = "short"
    kind: str = "graph"
    """`graph`, `stacked`, `number` or `bars`."""
    decimals: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Board:
    """One dashboard."""

    name: str
    """Of its file; with `talkoot-` before it, its address in Grafana."""
    title: str
    text: str
    rows: Sequence[tuple[str, Sequence[Panel]]]
    scope: str
    """What `@` stands for: SWARM or NODES."""
    several: bool = False
    """Whether more than one node can be chosen."""

    def queries(self) -> Iterator[tuple[str, str]]:
        """(title of its panel, PromQL) of all that it asks for."""
        for _, panels in self.rows:
            for panel in panels:
                yield from ((panel.title, self.filled(expression)) for expression, _ in panel.queries)

    def filled(self, expression: str) -> str:
        """The query with the board's labels."""
        return expression.replace("@", self.scope)

    def build(self) -> models.Dashboard:
        """As Grafana's schema has it."""
        board = (
            dashboard.Dashboard(f"talkoot: {self.title}")
            .uid(f"talkoot-{self.name}")
            .description(self.text)
            .tags(["talkoot"])
            .time("now-1h", "now")
            .refresh("15s")
            .timezone("browser")
            .tooltip(models.DashboardCursorSync.CROSSHAIR)
            .link(
                dashboard.DashboardLink("talkoot")
                .type(models.DashboardLinkType.DASHBOARDS)
                .tags(["talkoot"])
                .include_vars(True)
                .keep_time(True)
            )
        )
        for variable in self._variables():
            board.with_variable(variable)
        for title, panels in self.rows:
            board.with_row(dashboard.Row(title))
            for panel in panels:
                board.with_panel(self._picture(panel))
        built = board.build()
        for number, shown in enumerate(built.panels or (), start=1):
            shown.id_val = number  # addresses of single panels need it
        return built

    def _variables(self) -> Iterator[dashboard.DatasourceVariable | dashboard.QueryVariable]:
        yield dashboard.DatasourceVariable("datasource").label("Prometheus").type("prometheus")
        everything = models.VariableOption(selected=True, text="All", value="$__all")
        swarm = _values("swarm", 'label_values(up{job="talkoot"}, swarm)').label("Swarm")
        yield swarm.include_all(True).all_value(".*").current(everything)
        if self.scope == NODES:
            node = _values("instance", f"label_values(up{{{SWARM}}}, instance)").label("Node")
            if self.several:
                node = node.multi(True).include_all(True).all_value(".*").current(everything)
            yield node

    def _picture(self, panel: Panel) -> "timeseries.Panel | stat.Panel | bargauge.Panel":
        picture: timeseries.Panel | stat.Panel | bargauge.Panel
        if panel.kind == "number":
            picture = stat.Panel().graph_mode(kinds.BigValueGraphMode.AREA).span(4).height(4)
            picture = picture.color_mode(kinds.BigValueColorMode.VALUE).reduce_options(_last())
            if panel.queries[0][1]:
                picture = picture.text_mode(kinds.BigValueTextMode.NAME)
        elif panel.kind == "bars":
            picture = bargauge.Panel().span(8).height(8).display_mode(kinds.BarGaugeDisplayMode.BASIC)
            picture = picture.orientation(kinds.VizOrientation.HORIZONTAL).reduce_options(_last())
        else:
            picture = _lines(stacked=panel.kind == "stacked")
        picture = picture.title(panel.title).description(panel.text).unit(panel.unit).datasource(SOURCE)
        if panel.decimals is not None:
            picture = picture.decimals(panel.decimals)
        now = panel.kind == "bars" or (panel.kind == "number" and bool(panel.queries[0][1]))
        for letter, (expression, legend) in zip("ABCDEFGH", panel.queries, strict=False):
            query = prometheus.Dataquery().ref_id(letter).expr(self.filled(expression)).datasource(SOURCE)
            query = query.legend_format(legend or "__auto")
            picture = picture.with_target(query.instant() if now else query.range())
        return picture


def graph(title: str, text: str, *queries: Query, unit: str = "short") -> Panel:
    """Lines over time."""
    return Panel(title=title, text=text, queries=queries, unit=unit)


def stacked(title: str, text: str, *queries: Query, unit: str = "short") -> Panel:
    """Areas on top of each other."""
    return Panel(title=title, text=text, queries=queries, unit=unit, kind="stacked")


def number(
    title: str,
    text: str,
    expression: str,
    *,
    unit: str = "short",
    decimals: int | None = None,
    name: str = "",
) -> Panel:
    """One value, large; with `name`, that of its series instead."""
    return Panel(
        title=title, text=text, queries=((expression, name),), unit=unit, kind="number", decimals=decimals
    )


def bars(title: str, text: str, query: Query, *, unit: str = "short") -> Panel:
    """The values of now, one bar each."""
    return Panel(title=title, text=text, queries=(query,), unit=unit, kind="bars")


def each_minute(metric: str, label: str) -> Query:
    """A counter by its label, per minute, of all chosen nodes together."""
    return f"60 * sum by ({label}) (rate({metric}{{@}}[$__rate_interval]))", "{{" + label + "}}"


def each_second(metric: str, label: str) -> Query:
    """The same, per second."""
    return f"sum by ({label}) (rate({metric}{{@}}[$__rate_interval]))", "{{" + label + "}}"


def quantiles(metric: str) -> tuple[Query, Query]:
    """Median and 99th percentile of a histogram."""
    buckets = f"sum by (le) (rate({metric}_bucket{{@}}[$__rate_interval]))"
    return (f"histogram_quantile(0.5, {buckets})", "median"), (f"histogram_quantile(0.99, {buckets})", "99 %")


def _last() -> common.ReduceDataOptions:
    return common.ReduceDataOptions().calcs(["lastNotNull"])


def _values(name: str, query: str) -> dashboard.QueryVariable:
    return (
        dashboard.QueryVariable(name)
        .query(query)
        .datasource(SOURCE)
        .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(models.VariableSort.ALPHABETICAL_ASC)
    )


def _lines(*, stacked: bool) -> timeseries.Panel:
    legend = common.VizLegendOptions().show_legend(True).display_mode(kinds.LegendDisplayMode.LIST)
    panel = (
        timeseries.Panel()
        .span(8)
        .height(8)
        .line_width(1)
        .show_points(kinds.VisibilityMode.AUTO)
        .legend(legend.placement(kinds.LegendPlacement.BOTTOM))
        .tooltip(common.VizTooltipOptions().mode(kinds.TooltipDisplayMode.MULTI))
        .axis_soft_min(0)
    )
    if stacked:
        return panel.fill_opacity(40).stacking(common.StackingConfig().mode(kinds.StackingMode.NORMAL))
    return panel.fill_opacity(5)
