#!/usr/bin/env python3
"""Writes the dashboards: deploy/grafana/source says what is on them, deploy/grafana/dashboards is what Grafana reads.

    deploy/grafana/generate.py            writes them
    deploy/grafana/generate.py --check    tells whether they are as they would be written, and exits with 1 if not
"""

import json
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.dont_write_bytecode = True
sys.path.insert(0, str(HERE))

from source import cluster, groups, log, overview, process  # noqa: E402

DASHBOARDS = {
    "overview.json": overview.DASHBOARD,
    "groups.json": groups.DASHBOARD,
    "log.json": log.DASHBOARD,
    "cluster.json": cluster.DASHBOARD,
    "process.json": process.DASHBOARD,
}


def main(arguments):
    if arguments not in ([], ["--check"]):
        print(__doc__.strip())
        return 2
    folder = HERE / "dashboards"
    wanted = {name: json.dumps(made, indent=2, ensure_ascii=False) + "\n" for name, made in DASHBOARDS.items()}
    if not arguments:
        folder.mkdir(exist_ok=True)
        for name, text in wanted.items():
            (folder / name).write_text(text)
        return 0
    found = {path.name: path.read_text() for path in folder.glob("*.json")}
    stale = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
    for name in stale:
        print(f"deploy/grafana/dashboards/{name} is not what generate.py writes: run deploy/grafana/generate.py", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
