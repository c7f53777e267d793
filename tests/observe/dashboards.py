"""The dashboards as Grafana would read them: their shape, and their queries."""

import json
import re
from typing import NamedTuple

from programs import ROOT

FOLDER = ROOT / "deploy" / "grafana" / "dashboards"
# What Grafana fills in by itself, besides the variables of the dashboard.
BUILT_IN = {"__rate_interval"}


class PanelQuery(NamedTuple):
    dashboard: str
    panel: str
    expr: str
    legend: str
    is_table: bool = False

    def __str__(self):
        return f"{self.dashboard} / {self.panel}: {self.expr}"

    def filled(self, namespace=".*", pod=".*", rate_interval="15s"):
        """The expression as Grafana would send it."""
        values = {"__rate_interval": rate_interval, "namespace": namespace, "pod": pod}
        return re.sub(r"\$(\w+)", lambda found: values[found[1]], self.expr)

    @property
    def labels(self):
        """The labels that each of its series must have."""
        return re.findall(r"{{(\w+)}}", self.legend)


def load():
    return {path.name: json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))}


def queries(dashboards):
    for name, dashboard in dashboards.items():
        for panel in dashboard["panels"]:
            for target in panel.get("targets", []):
                legend = target["legendFormat"].replace("__auto", "")
                yield PanelQuery(name, panel["title"], target["expr"], legend, panel["type"] == "table")
        for annotation in dashboard["annotations"]["list"]:
            yield PanelQuery(name, f"annotation {annotation['name']}", annotation["expr"], "")


def panels(dashboards):
    """The names of all panels, each behind that of its dashboard, as people see them."""
    return [(dashboard["title"].removeprefix("tertulia / "), panel["title"]) for dashboard in dashboards.values() for panel in dashboard["panels"]]


def faults(dashboards):
    """What is wrong with their shape."""
    for key in ("uid", "title"):
        values = [dashboard[key] for dashboard in dashboards.values()]
        if len(values) != len(set(values)):
            yield f"two dashboards have the same {key}"
    for name, dashboard in dashboards.items():
        variables = {variable["name"] for variable in dashboard["templating"]["list"]}
        if not {"datasource", "namespace", "pod"} <= variables:
            yield f"{name} lacks a variable: it has {variables}"
        for used in re.findall(r"\$\{?(\w+)", json.dumps(dashboard["panels"])):
            if used not in variables | BUILT_IN:
                yield f"{name} uses ${used}, which is no variable of its"
        seen, places = set(), set()
        for panel in dashboard["panels"]:
            what = f"{name} / {panel['title']}"
            if panel["id"] in seen:
                yield f"{what}: another panel has its id"
            seen.add(panel["id"])
            at = panel["gridPos"]
            cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
            if at["x"] + at["w"] > 24 or cells & places:
                yield f"{what}: it lies over another panel or the edge"
            places |= cells
            if panel["type"] == "row":
                continue
            defaults = panel["fieldConfig"]["defaults"]
            if len(panel["description"]) < 20:
                yield f"{what}: no description"
            if not defaults["unit"]:
                yield f"{what}: no unit"
            if not defaults["thresholds"]["steps"] or defaults["thresholds"]["steps"][0]["value"] is not None:
                yield f"{what}: no thresholds"
            if not panel["targets"]:
                yield f"{what}: no query"
            for target in panel["targets"]:
                if target["datasource"]["uid"] != "${datasource}":
                    yield f"{what}: it does not use the data source that was chosen"
                selectors = re.findall(r"{([^}]*)}", target["expr"])
                if not all('namespace=~"$namespace"' in selector for selector in selectors):
                    yield f"{what}: it does not look at what was chosen: {target['expr']}"


def metrics_of(expr):
    """The metrics that an expression names, without the suffixes of histograms."""
    names = set(re.findall(r"\b(?:tertulia|process)_\w+", expr))
    return {re.sub(r"_(bucket|sum|count)$", "", name) for name in names}
