#!/usr/bin/env python3
"""Draws a dashboard from its JSON and a Prometheus, where no Grafana is at hand: to look at queries, units, thresholds and the order of panels.

    deploy/grafana/render.py overview --prometheus http://127.0.0.1:9090 --minutes 60 --output overview.png

It asks Prometheus exactly what Grafana would ask, and places panels where Grafana would; how they look is its own. Needs matplotlib.
"""

import argparse
import json
import math
import re
import sys
import time
import urllib.parse
import urllib.request
from datetime import datetime
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402
from matplotlib.colors import PowerNorm  # noqa: E402
from matplotlib.dates import DateFormatter  # noqa: E402
from matplotlib.patches import FancyBboxPatch  # noqa: E402
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, MultipleLocator, NullLocator  # noqa: E402

FOLDER = Path(__file__).resolve().parent / "dashboards"
# Inches of one cell of the grid of 24 columns.
CELL_WIDTH, CELL_HEIGHT, MARGIN, GAP = 0.66, 0.33, 0.25, 0.06
BACKGROUND, CARD, EDGE, TEXT, FAINT = "#111217", "#181b1f", "#2a2d33", "#d8d9da", "#8e8e8e"
COLOURS = {"green": "#73bf69", "yellow": "#fade2a", "orange": "#ff9830", "red": "#f2495c", "blue": "#5794f2", "purple": "#b877d9"}
PALETTE = ["#73bf69", "#f2cc0c", "#8ab8ff", "#ff780a", "#f2495c", "#5794f2", "#b877d9", "#705da0", "#37872d", "#fade2a", "#447ebc"]


class Prometheus:
    def __init__(self, url, minutes, rate_interval):
        self.url, self.rate_interval = url, rate_interval
        self.end = time.time()
        self.start = self.end - minutes * 60
        # About as many points as a panel has pixels.
        self.step = max(1, round(minutes * 60 / 240))

    def ask(self, path, **parameters):
        url = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(url, timeout=30) as answer:
            return json.load(answer)["data"]["result"]

    def series(self, target):
        """Each series: its labels, and its times and values."""
        values = {"__rate_interval": self.rate_interval, "namespace": ".*", "pod": ".*"}
        expr = re.sub(r"\$(\w+)", lambda found: values[found[1]], target["expr"])
        found = self.ask("query_range", query=expr, start=self.start, end=self.end, step=self.step)
        return [(one["metric"], [at for at, _ in one["values"]], [float(value) for _, value in one["values"]]) for one in found]


def name_of(target, labels):
    legend = target["legendFormat"]
    if legend == "__auto":
        return ", ".join(f'{key}="{value}"' for key, value in labels.items()) or "value"
    return re.sub(r"{{(\w+)}}", lambda found: labels.get(found[1], ""), legend)


def written(value, unit, decimals=None):
    """A value with its unit, as short as Grafana writes it."""
    if value is None or math.isnan(value):
        return "No data"

    def scaled(number, base, names):
        power = 0
        while abs(number) >= base and power < len(names) - 1:
            number, power = number / base, power + 1
        return number, names[power]

    suffix = ""
    if unit == "s":
        if value and abs(value) < 1e-3:
            value, suffix = value * 1e6, " µs"
        elif value and abs(value) < 1:
            value, suffix = value * 1e3, " ms"
        elif abs(value) >= 7200:
            value, suffix = value / 3600, " h"
        elif abs(value) >= 120:
            value, suffix = value / 60, " min"
        else:
            suffix = " s"
    elif unit == "percentunit":
        value, suffix = value * 100, "%"
    elif unit in ("bytes", "Bps"):
        value, suffix = scaled(value, 1024, [" B", " KiB", " MiB", " GiB", " TiB"])
        suffix += "/s" if unit == "Bps" else ""
    elif unit == "d":
        suffix = " d"
    else:
        value, suffix = scaled(value, 1000, ["", " K", " M", " G"])
        suffix += " /s" if unit == "cps" else ""
    if decimals is None:
        decimals = 0 if value == round(value) or abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f"{value:.{decimals}f}{suffix}"


def colour_at(thresholds, value):
    chosen = thresholds["steps"][0]["color"]
    for step in thresholds["steps"][1:]:
        if value is not None and value >= step["value"]:
            chosen = step["color"]
    return COLOURS.get(chosen, chosen)


class Sheet:
    """The whole picture, with the grid of Grafana on it."""

    def __init__(self, dashboard, source, title):
        bottom = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in dashboard["panels"])
        self.width, self.height = 24 * CELL_WIDTH + 2 * MARGIN, bottom * CELL_HEIGHT + 2 * MARGIN + 0.45
        self.figure = pyplot.figure(figsize=(self.width, self.height), facecolor=BACKGROUND)
        self.source = source
        self.figure.text(MARGIN / self.width, 1 - 0.3 / self.height, dashboard["title"], color="white", fontsize=15,
                         weight="bold", va="center")
        self.figure.text(1 - MARGIN / self.width, 1 - 0.3 / self.height, title, color=FAINT, fontsize=9, va="center", ha="right")

    def place(self, panel, left=0.0, right=0.0, top=0.0, bottom=0.0):
        """Where a panel is on the sheet, less some inches at its sides."""
        at = panel["gridPos"]
        x, y = MARGIN + at["x"] * CELL_WIDTH + left, MARGIN + 0.45 + at["y"] * CELL_HEIGHT + top
        width, height = at["w"] * CELL_WIDTH - left - right, at["h"] * CELL_HEIGHT - top - bottom
        return [x / self.width, 1 - (y + height) / self.height, width / self.width, height / self.height]

    def card(self, panel):
        x, y, width, height = self.place(panel, GAP, GAP, GAP, GAP)
        self.figure.patches.append(FancyBboxPatch(
            (x, y), width, height, boxstyle="square,pad=0", facecolor=CARD, edgecolor=EDGE, linewidth=0.8,
            transform=self.figure.transFigure, zorder=-1))
        self.figure.text(x + 0.1 / self.width, y + height - 0.16 / self.height, panel["title"], color=TEXT, fontsize=9.5,
                         weight="bold", va="center")

    def axes(self, panel, **sides):
        axes = self.figure.add_axes(self.place(panel, **sides), facecolor=CARD)
        for side in axes.spines.values():
            side.set_visible(False)
        axes.tick_params(colors=FAINT, labelsize=7.5, length=0)
        return axes

    def draw(self, panel):
        if panel["type"] == "row":
            x, y, _, height = self.place(panel)
            self.figure.text(x + 0.05 / self.width, y + height / 2, f"▾ {panel['title']}", color=TEXT, fontsize=11, va="center")
            return
        self.card(panel)
        found = [(target, *one) for target in panel["targets"] for one in self.source.series(target)]
        {"stat": self.stat, "timeseries": self.graph, "heatmap": self.heatmap, "table": self.table}[panel["type"]](panel, found)

    def stat(self, panel, found):
        defaults = panel["fieldConfig"]["defaults"]
        _, _, times, values = found[0] if found else (None, None, [], [])
        last = next((value for value in reversed(values) if not math.isnan(value)), None)
        colour = colour_at(defaults["thresholds"], last)
        text = written(last, defaults["unit"], defaults.get("decimals"))
        for mapping in defaults.get("mappings", []):
            text = mapping["options"].get(text, {}).get("text", text)
        if values:
            axes = self.axes(panel, left=GAP, right=GAP, top=0.8, bottom=GAP)
            axes.plot(times, values, color=colour, linewidth=1)
            axes.fill_between(times, values, color=colour, alpha=0.15)
            finite = [value for value in values if not math.isnan(value)] or [0]
            axes.set_ylim(0, max(finite) * 1.1 or 1)
            axes.set_xlim(self.source.start, self.source.end)
            axes.axis("off")
        x, y, width, height = self.place(panel)
        self.figure.text(x + width / 2, y + height * 0.52, text, color=colour, fontsize=19, weight="bold", va="center",
                         ha="center")

    def graph(self, panel, found):
        defaults = panel["fieldConfig"]["defaults"]
        custom, unit = defaults["custom"], defaults["unit"]
        fixed = {override["matcher"]["options"]: COLOURS[override["properties"][0]["value"]["fixedColor"]]
                 for override in panel["fieldConfig"]["overrides"]}
        lines = min(len(found), 5)
        axes = self.axes(panel, left=0.72, right=0.16, top=0.38, bottom=0.36 + 0.155 * lines)
        stacked = custom["stacking"]["mode"] == "normal"
        floor, shown = {}, []
        found.sort(key=lambda one: (-max((value for value in one[3] if not math.isnan(value)), default=0)))
        named = [(name_of(target, labels), times, values) for target, labels, times, values in found]
        palette = iter(PALETTE * 9)
        hues = {name: fixed.get(name) or next(palette) for name, _, _ in sorted(named, key=lambda one: one[0])}
        for name, times, values in named:
            colour = hues[name]
            if stacked:
                base = [floor.get(at, 0) for at in times]
                values_drawn = [below + value for below, value in zip(base, values)]
                floor.update(zip(times, values_drawn))
                axes.fill_between(times, base, values_drawn, color=colour, alpha=custom["fillOpacity"] / 100, linewidth=0)
            else:
                values_drawn = values
            axes.plot(times, values_drawn, color=colour, linewidth=1.2 * custom["lineWidth"], linestyle="--" if name == "limit" else "-")
            shown.append((name, colour, values))
        if custom["scaleDistribution"]["type"] == "log":
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(10, numticks=6))
            axes.yaxis.set_minor_locator(NullLocator())
        else:
            axes.set_ylim(bottom=0, top=defaults.get("max"))
            if axes.get_ylim()[1] < 1e-6 or not any(value for _, _, values in named for value in values):
                axes.set_ylim(0, 1)
            axes.yaxis.set_major_locator(MaxNLocator(4, integer=unit == "short"))
            if unit in ("bytes", "Bps"):
                # Ticks at powers of two, two to four of them.
                axes.yaxis.set_major_locator(MultipleLocator(2 ** max(0, math.ceil(math.log2(axes.get_ylim()[1] / 4)))))
        if custom["thresholdsStyle"]["mode"] != "off":
            low, high = axes.get_ylim()
            for step in defaults["thresholds"]["steps"][1:]:
                if low < step["value"] < high * 3:
                    axes.axhline(step["value"], color=COLOURS[step["color"]], linewidth=0.9, linestyle=(0, (6, 4)), alpha=0.9)
        self.times(axes)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: written(value, unit)))
        axes.grid(color=EDGE, linewidth=0.6)
        self.legend(panel, shown, unit, lines)

    def times(self, axes):
        axes.set_xlim(self.source.start, self.source.end)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        clock = DateFormatter("%H:%M:%S" if self.source.end - self.source.start < 600 else "%H:%M")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda at, _: datetime.fromtimestamp(at).strftime(clock.fmt)))

    def legend(self, panel, shown, unit, lines):
        x, y, width, _ = self.place(panel, 0.14, 0.18, 0, 0.1)
        rest = len(shown) - lines
        for number, (name, colour, values) in enumerate(shown[:lines]):
            line = y + (0.155 * (lines - number) - 0.06) / self.height
            last = next((value for value in reversed(values) if not math.isnan(value)), float("nan"))
            most = max((value for value in values if not math.isnan(value)), default=float("nan"))
            more = f"  … and {rest} more" if rest and number == lines - 1 else ""
            self.figure.text(x, line, "▬", color=colour, fontsize=8, va="center")
            self.figure.text(x + 0.18 / self.width, line, name + more, color=TEXT, fontsize=7.5, va="center")
            self.figure.text(x + width - 0.95 / self.width, line, written(last, unit), color=TEXT, fontsize=7.5, va="center", ha="right")
            self.figure.text(x + width, line, f"max {written(most, unit)}", color=FAINT, fontsize=7.5, va="center", ha="right")

    def heatmap(self, panel, found):
        axes = self.axes(panel, left=0.72, right=0.16, top=0.38, bottom=0.36)
        rows = sorted(((float(labels["le"]), times, values) for _, labels, times, values in found))
        bounds = [bound for bound, _, _ in rows]
        times = sorted({at for _, column, _ in rows for at in column})
        counts, below = [], {at: 0 for at in times}
        for _, column, values in rows:
            row = dict(zip(column, values))
            counts.append([max(0, row.get(at, below[at]) - below[at]) for at in times])
            below.update(row)
        used = [number for number, row in enumerate(counts) if any(value > 0.01 for value in row)]
        if used:
            low, high = max(0, used[0] - 1), min(len(bounds) - 1, used[-1] + 1)
            drawn = [[value or float("nan") for value in row] for row in counts[low:high + 1]]
            edges = range(high - low + 2)
            axes.pcolormesh([*times, times[-1] + self.source.step], edges, drawn, cmap="turbo", norm=PowerNorm(0.5, vmin=0))
            unit = panel["options"]["yAxis"]["unit"]
            axes.set_yticks(list(edges)[1:], [written(bound, unit) if math.isfinite(bound) else "more" for bound in bounds[low:high + 1]])
        self.times(axes)

    def table(self, panel, found):
        x, y, _, height = self.place(panel, 0.15, 0, 0.4, 0)
        columns = list(panel["transformations"][0]["options"]["indexByName"])
        lines = ["   ".join(f"{column:24.24}" for column in columns)]
        lines += ["   ".join(f"{labels.get(column, ''):24.24}" for column in columns) for _, labels, _, _ in found]
        self.figure.text(x, y + height, "\n".join(lines), color=TEXT, fontsize=8, va="top", family="monospace")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dashboard", choices=sorted(path.stem for path in FOLDER.glob("*.json")))
    parser.add_argument("--prometheus", default="http://127.0.0.1:9090")
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--rate-interval", default="1m", help="what $__rate_interval stands for: four scrape intervals or more")
    parser.add_argument("--dots-per-inch", type=int, default=100)
    parser.add_argument("--output", required=True)
    arguments = parser.parse_args()
    dashboard = json.loads((FOLDER / f"{arguments.dashboard}.json").read_text())
    source = Prometheus(arguments.prometheus, arguments.minutes, arguments.rate_interval)
    span = f"last {arguments.minutes:g} minutes · drawn by deploy/grafana/render.py, not by Grafana"
    sheet = Sheet(dashboard, source, span)
    for panel in dashboard["panels"]:
        sheet.draw(panel)
    sheet.figure.savefig(arguments.output, dpi=arguments.dots_per_inch, facecolor=BACKGROUND)
    return 0


if __name__ == "__main__":
    sys.exit(main())
