"""Starts the real programs, on loopback and on ports that were free, and ends them."""

import asyncio
import http.server
import json
import os
import re
import shutil
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy" / "prometheus"
START_DEADLINE = 30


class Failed(Exception):
    """What is wrong, for people."""


def tool(name):
    """Where a tool is: on PATH, or fetched."""
    path = os.pathsep.join([os.environ.get("PATH", ""), str(ROOT / ".tools" / "bin")])
    found = shutil.which(name, path=path)
    if not found:
        raise Failed(f"there is no {name}: run tests/tools/fetch {name}")
    return found


async def until(condition, seconds, what, every=0.1):
    """Waits for an asynchronous condition to yield something true, and gives it back."""
    deadline = time.monotonic() + seconds
    while not (met := await condition()):
        if time.monotonic() > deadline:
            raise Failed(f"not within {seconds} s: {what()}")
        await asyncio.sleep(every)
    return met


class Program:
    """A child process, whose output is kept in a file, or goes to `log`."""

    def __init__(self, name, folder, log=None):
        self.name = name
        self.log = Path(log or Path(folder) / f"{name}.log")
        self.process = None

    async def start(self, *command, stdout=None):
        with self.log.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                *map(str, command), stdin=asyncio.subprocess.DEVNULL, stdout=stdout or log, stderr=log)

    async def kill(self):
        if self.process and self.process.returncode is None:
            self.process.kill()
            await self.process.wait()

    def tail(self):
        if not self.log.is_file():
            return f"(it was written to {self.log})"
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-15:])


class Server(Program):
    """A tertulia-server on an address of its own, so that each counts as a pod of its own."""

    def __init__(self, host, folder, settings=(), log=None):
        super().__init__(f"server-{host}", folder, log)
        self.pod = host
        self.settings = [word for setting in settings for word in ("--set", setting)]
        self.binary = Path(os.environ.get("TERTULIA_SERVER", Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "debug" / "tertulia-server"))
        self.data = Path(folder) / f"data-{host}"
        self.addresses = {name: f"{host}:0" for name in ("chat", "admin", "http")}

    async def run(self):
        """Starts it; for a second time, on the ports of the first."""
        if not self.binary.exists():
            raise Failed(f"there is no {self.binary}: run cargo build --workspace --bins")
        arguments = [word for name, address in self.addresses.items() for word in (f"--{name}", address)]
        await self.start(self.binary, *arguments, "--data-dir", self.data, *self.settings, stdout=asyncio.subprocess.PIPE)
        line = await asyncio.wait_for(self.process.stdout.readline(), START_DEADLINE)
        if not line:
            raise Failed(f"{self.name} does not start:\n{self.tail()}")
        self.addresses.update(json.loads(line)["listening"])

    def metrics(self):
        """What it exposes now: sample name to the sum of its values."""
        samples = {}
        for line in fetch(f"http://{self.addresses['http']}/metrics").splitlines():
            if line and not line.startswith("#"):
                name, value = re.split(r"[{ ]", line, maxsplit=1)[0], line.rsplit(" ", 1)[1]
                samples[name] = samples.get(name, 0) + float(value)
        return samples


class Prometheus(Program):
    """A Prometheus with the project's own configuration and rules, in a hurry: everything each second, no alert waits."""

    def __init__(self, folder, servers, stand_ins):
        super().__init__("prometheus", folder)
        self.folder = Path(folder) / "prometheus"
        self.servers = servers
        self.stand_ins = stand_ins
        self.url = None

    def configure(self, targets):
        text = (DEPLOY / "prometheus.yml").read_text()
        text = replace(text, '["server:8090"]', json.dumps(targets))
        text = replace(text, "interval: 15s", "interval: 1s")
        text += f"""
  - job_name: stand-ins
    honor_labels: true
    static_configs:
      - targets: ["{self.stand_ins}"]
"""
        rules = self.folder / "rules"
        rules.mkdir(parents=True, exist_ok=True)
        for path in (DEPLOY / "rules").glob("*.yml"):
            (rules / path.name).write_text(re.sub(r"\bfor: \w+", "for: 1s", path.read_text()))
        (self.folder / "prometheus.yml").write_text(text)

    async def run(self):
        self.configure([server.addresses["http"] for server in self.servers])
        await self.start(
            tool("prometheus"), f"--config.file={self.folder}/prometheus.yml", f"--storage.tsdb.path={self.folder}/data",
            "--web.listen-address=127.0.0.1:0", "--log.level=info")

        async def listening():
            if self.process.returncode is not None:
                raise Failed(f"prometheus does not start:\n{self.tail()}")
            found = re.search(r'msg="Listening on" address=(\S+)', self.log.read_text())
            return found and f"http://{found[1]}"

        self.url = await until(listening, START_DEADLINE, lambda: "prometheus listens")

        async def ready():
            return "is Ready" in await asyncio.to_thread(fetch, f"{self.url}/-/ready")

        await until(ready, START_DEADLINE, lambda: "prometheus is ready")

    async def ask(self, path, **parameters):
        """The `data` of an answer of its HTTP API."""
        url = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        answer = json.loads(await asyncio.to_thread(fetch, url))
        if answer["status"] != "success":
            raise Failed(f"{path} {parameters}: {answer.get('error')}")
        return answer["data"]

    async def query(self, expr):
        """The series of an expression that have a value now."""
        data = await self.ask("query", query=expr)
        return [sample for sample in data["result"] if sample["value"][1] != "NaN"]

    async def firing(self):
        """The alerts that fire now."""
        return [alert for alert in (await self.ask("alerts"))["alerts"] if alert["state"] == "firing"]


# Tells of a disk and of nothing else.
FILLING = "filling"
# Tell what nodes on NATS tell, and nothing else.
NODES = ("node-1", "node-2")


class StandIns:
    """Stand in for servers that are not run here: what one tells whose disk fills, whose backups fail and which has a bug, and two that are nodes on NATS."""

    def __init__(self):
        self.available = 0.9
        # Of log.disk_bytes.
        self.used = 0.5
        self.failed_backups = 0
        # Of the newest backup, in seconds.
        self.age = 86400
        self.panics = 0
        # Of the second node: shards that it owns, the map it goes by, appends whose end it does not know, how often it was taken for dead.
        self.owned, self.map, self.unresolved, self.lapsed = 512, 7, 0, 0
        # Of what both may keep at NATS.
        self.kept = 0.5
        self.scrapes = 0
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                body = outer.page().encode()
                self.send_response(200)
                self.send_header("Content-Type", "text/plain; version=0.0.4")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = "127.0.0.1:%d" % self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def page(self):
        # It fills a little all the time, and a shard moves now and then.
        self.scrapes += 1
        self.available -= 1e-6
        self.used += 1e-5
        self.kept += 1e-5
        lines = [
            sample("tertulia_log_volume_size_bytes", FILLING, 1e10),
            sample("tertulia_log_reserve_bytes", FILLING, 268435456),
            sample("tertulia_log_volume_available_bytes", FILLING, self.available * 1e10),
            sample("tertulia_log_bytes", FILLING, self.used * 1e10),
            sample("tertulia_log_limit_bytes", FILLING, 1e10),
            sample("tertulia_backups_total", FILLING, self.failed_backups, result="failed"),
            sample("tertulia_backup_newest_timestamp_seconds", FILLING, time.time() - self.age),
            sample("tertulia_panics_total", FILLING, self.panics),
        ]
        for node, owned, version, unresolved, lapsed in zip(NODES, (512, self.owned), (7, self.map), (0, self.unresolved), (0, self.lapsed)):
            lines += [
                sample("tertulia_cluster_nodes", node, 2),
                sample("tertulia_shards", node, 1024),
                sample("tertulia_shards_owned", node, owned),
                sample("tertulia_shard_map_version", node, version),
                sample("tertulia_log_nats_unresolved_appends", node, unresolved),
                sample("tertulia_log_bytes", node, 1e9),
                sample("tertulia_nats_connected", node, 1),
                sample("tertulia_nats_reconnects_total", node, 0),
                sample("tertulia_nats_storage_bytes", node, self.kept * 1e10),
                sample("tertulia_nats_storage_limit_bytes", node, 1e10),
                sample("tertulia_log_nats_shards_held", node, owned),
                sample("tertulia_log_nats_shards_lost_total", node, 0),
                sample("tertulia_log_nats_gets_total", node, self.scrapes, kind="head"),
                sample("tertulia_cluster_dropped_frames_total", node, 0),
                sample("tertulia_cluster_expired_nodes_total", node, 0),
                sample("tertulia_cluster_handovers_total", node, self.scrapes),
                sample("tertulia_cluster_renewals_total", node, self.scrapes, result="renewed"),
                sample("tertulia_cluster_renewals_total", node, lapsed, result="lapsed"),
                sample("tertulia_log_nats_appends_total", node, self.scrapes, result="stored"),
                sample("tertulia_cluster_takeovers_total", node, self.scrapes, how="handed"),
                *bucketed("tertulia_cluster_takeover_seconds", node, self.scrapes, 0.1, how="handed"),
                *bucketed("tertulia_log_nats_append_seconds", node, self.scrapes, 0.01),
                *bucketed("tertulia_log_nats_append_messages", node, self.scrapes, 4),
            ]
        return "".join(lines)

    def close(self):
        self.server.shutdown()
        self.server.server_close()


def sample(name, pod, value, **labels):
    """A line of the text format."""
    labels = {"namespace": "local", "pod": pod, "instance": f"{pod}:8090", "job": "tertulia", **labels}
    return name + "{" + ",".join(f'{key}="{text}"' for key, text in labels.items()) + f"}} {value}\n"


def bucketed(name, pod, count, bound, **labels):
    """The lines of a histogram all of whose values are below a bound."""
    return [sample(f"{name}_bucket", pod, count, **labels, le=le) for le in (bound, "+Inf")]


def replace(text, old, new):
    if old not in text:
        raise Failed(f"deploy/prometheus/prometheus.yml has no {old!r}: this test needs to follow")
    return text.replace(old, new)


def fetch(url):
    try:
        with urllib.request.urlopen(url, timeout=20) as answer:
            return answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.read().decode()
