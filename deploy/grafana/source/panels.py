"""What dashboards are made of: queries, panels, rows, and their JSON for Grafana."""

from typing import NamedTuple

# Every query is narrowed to what the dashboard's variables chose.
CHOSEN = 'namespace=~"$namespace", pod=~"$pod"'
# The metrics of every process have no name of ours.
PROCESS = f'{CHOSEN}, job=~".*tertulia.*"'

DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
SCHEMA_VERSION = 39
GREEN, YELLOW, ORANGE, RED, BLUE, PURPLE, GREY = "green", "yellow", "orange", "red", "blue", "purple", "#8e8e8e"
# The same thing has the same colour everywhere: by the legend of a query, the colours of its series.
QUANTILES = {"p50": GREEN, "p95": YELLOW, "p99": RED}
COLOURS = {
    "{{result}}": {"stored": GREEN, "joined": GREEN, "repeated": BLUE, "again": BLUE, "refused": ORANGE, "failed": RED},
    "{{dialect}}": {"classic": ORANGE, "extended": BLUE},
    **{name: {name: colour} for name, colour in QUANTILES.items()},
    "limit": {"limit": RED},
}


class Query(NamedTuple):
    expr: str
    legend: str
    instant: bool = False
    format: str = "time_series"


class Row(NamedTuple):
    title: str
    panels: list


def query(expr, legend=""):
    return Query(expr, legend)


def rate(metric, by="", more=""):
    """How often per second, summed over what was chosen."""
    grouping = f"sum by ({by})" if by else "sum"
    return f"{grouping} (rate({metric}{{{CHOSEN}{more}}}[$__rate_interval]))"


def total(metric, by="", function="sum"):
    """A gauge, summed (or else) over what was chosen."""
    grouping = f"{function} by ({by})" if by else function
    return f"{grouping} ({metric}{{{CHOSEN}}})"


def quantile(q, metric, by="", more=""):
    labels = f"{by}, le" if by else "le"
    return f"histogram_quantile({q}, sum by ({labels}) (rate({metric}_bucket{{{CHOSEN}{more}}}[$__rate_interval])))"


def quantiles(metric):
    return [query(quantile(q, metric), f"p{round(q * 100)}") for q in (0.5, 0.95, 0.99)]


def steps(*pairs):
    """Colours by value: the first for all below the second one's bound, and so on."""
    return {"mode": "absolute", "steps": [{"color": colour, "value": bound} for bound, colour in pairs]}


def panel(kind, title, description, queries, unit, width, height, thresholds=None, **field):
    """The parts that all kinds of panels have."""
    targets = []
    for number, item in enumerate(queries):
        target = {
            "refId": chr(ord("A") + number),
            "datasource": DATASOURCE,
            "editorMode": "code",
            "expr": item.expr,
            "legendFormat": item.legend or "__auto",
            "format": item.format,
            "instant": item.instant,
            "range": not item.instant,
        }
        targets.append(target)
    return {
        "type": kind,
        "title": title,
        "description": description,
        "datasource": DATASOURCE,
        "targets": targets,
        "gridPos": {"w": width, "h": height, "x": 0, "y": 0},
        "fieldConfig": {
            "defaults": {"unit": unit, "thresholds": thresholds or steps((None, GREEN)), **field},
            "overrides": [],
        },
    }


def stat(title, description, expr, unit="short", thresholds=None, width=3, decimals=None, **field):
    """One number, with its course behind it."""
    if decimals is not None:
        field["decimals"] = decimals
    made = panel("stat", title, description, [query(expr)], unit, width, 4, thresholds, **field)
    made["fieldConfig"]["defaults"]["color"] = {"mode": "thresholds"}
    made["options"] = {
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "graphMode": "area", "colorMode": "value", "justifyMode": "auto", "orientation": "auto", "textMode": "value",
    }
    return made


def graph(title, description, queries, unit="short", width=8, height=8, stack=False, thresholds=None, log=False,
          minimum=0, maximum=None):
    """Lines over time; those called `limit` are dashed."""
    custom = {
        # Stacked, a series of zeroes would draw its line over the others.
        "drawStyle": "line", "lineWidth": 0 if stack else 1, "fillOpacity": 70 if stack else 10, "showPoints": "never",
        "spanNulls": False, "lineInterpolation": "linear",
        "stacking": {"mode": "normal" if stack else "none", "group": "A"},
        "scaleDistribution": {"type": "log", "log": 10} if log else {"type": "linear"},
        "thresholdsStyle": {"mode": "dashed" if thresholds else "off"},
    }
    field = {"custom": custom, "color": {"mode": "palette-classic"}}
    if not log:
        field["min"] = minimum
    if maximum is not None:
        field["max"] = maximum
    made = panel("timeseries", title, description, queries, unit, width, height, thresholds, **field)
    made["options"] = {
        "legend": {"displayMode": "table", "placement": "bottom", "calcs": ["lastNotNull", "max"], "showLegend": True},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }
    for item in queries:
        for name, colour in COLOURS.get(item.legend, {}).items():
            properties = [{"id": "color", "value": {"mode": "fixed", "fixedColor": colour}}]
            if name == "limit":
                properties.append({"id": "custom.lineStyle", "value": {"fill": "dash", "dash": [8, 8]}})
                properties.append({"id": "custom.fillOpacity", "value": 0})
            made["fieldConfig"]["overrides"].append({"matcher": {"id": "byName", "options": name}, "properties": properties})
    return made


def heatmap(title, description, metric, unit, width=8, height=8):
    """How the values of a histogram are spread, over time."""
    expr = f"sum by (le) (increase({metric}_bucket{{{CHOSEN}}}[$__rate_interval]))"
    made = panel("heatmap", title, description, [Query(expr, "{{le}}", False, "heatmap")], "short", width, height)
    made["options"] = {
        "calculate": False,
        "yAxis": {"unit": unit, "axisPlacement": "left"},
        "color": {"mode": "scheme", "scheme": "Turbo", "steps": 64, "exponent": 0.5, "scale": "exponential"},
        "cellGap": 1, "filterValues": {"le": 1e-9}, "legend": {"show": True},
        "tooltip": {"mode": "single", "yHistogram": True}, "rowsFrame": {"layout": "auto"},
    }
    return made


def table(title, description, expr, columns, width=12, height=6):
    """The labels of series, one a line."""
    made = panel("table", title, description, [Query(expr, "", True, "table")], "short", width, height)
    hidden = {name: True for name in ("Time", "Value", "__name__")}
    made["transformations"] = [{
        "id": "organize",
        "options": {"excludeByName": hidden, "indexByName": {name: place for place, name in enumerate(columns)}},
    }]
    made["options"] = {"showHeader": True, "cellHeight": "sm", "footer": {"show": False}}
    return made


def variable(name, label, expr, description):
    """Chosen from the values of a label; all at first. `All` is a pattern, so that series without the label count too."""
    return {
        "type": "query", "name": name, "label": label, "description": description, "datasource": DATASOURCE,
        "definition": expr, "query": {"query": expr, "refId": name}, "refresh": 2, "sort": 1,
        "multi": True, "includeAll": True, "allValue": ".*",
        "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
    }


def dashboard(uid, title, description, rows):
    panels = []
    top = 0
    for row in rows:
        panels.append({"id": len(panels) + 1, "type": "row", "title": row.title, "collapsed": False, "panels": [],
                       "gridPos": {"w": 24, "h": 1, "x": 0, "y": top}})
        top += 1
        left = tallest = 0
        for item in row.panels:
            place = item["gridPos"]
            if left + place["w"] > 24:
                top, left, tallest = top + tallest, 0, 0
            place["x"], place["y"] = left, top
            left, tallest = left + place["w"], max(tallest, place["h"])
            panels.append({"id": len(panels) + 1, **item})
        top += tallest
    return {
        "uid": uid,
        "title": title,
        "description": description,
        "tags": ["tertulia"],
        "schemaVersion": SCHEMA_VERSION,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "links": [{"type": "dashboards", "title": "tertulia", "tags": ["tertulia"], "asDropdown": True,
                   "includeVars": True, "keepTime": True, "targetBlank": False, "icon": "external link", "url": ""}],
        "annotations": {"list": [{
            "name": "Starts", "enable": True, "iconColor": PURPLE, "datasource": DATASOURCE,
            # A pod that is made anew is another instance. Long enough for two scrapes, however rare they are.
            "expr": f"sum by (namespace, job, pod) (changes(process_start_time_seconds{{{PROCESS}}}[5m]) + 1) - 1 > 0",
            "titleFormat": "{{pod}} started", "step": "30s",
        }]},
        "templating": {"list": [
            {"type": "datasource", "name": "datasource", "label": "Data source", "query": "prometheus",
             "description": "The Prometheus that scrapes tertulia", "refresh": 1, "includeAll": False, "multi": False,
             "current": {}},
            variable("namespace", "Namespace", "label_values(tertulia_build_info, namespace)", "Deployments by namespace"),
            variable("pod", "Pod", 'label_values(tertulia_build_info{namespace=~"$namespace"}, pod)', "Servers"),
        ]},
        "panels": panels,
    }
