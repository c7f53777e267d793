"""Servers that a measurement starts on loopback and ends, and what puts load on them."""

import json
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RELEASE = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release"
RESULTS = ROOT / "target" / "bench"
LOADGEN = str(RELEASE / "tertulia-loadgen")
SERVER = str(RELEASE / "tertulia-server")
# What tests/tools/fetch brought, behind what is installed.
os.environ["PATH"] += f":{ROOT / '.tools' / 'bin'}"


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Failed(Exception):
    """Why a run has no result."""


class Running:
    """A server that was started and is ended, by its process, when the block is left."""

    def __init__(self, command, folder, port=None):
        self.log = open(folder / "server.log", "w+")
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE if port is None else self.log,
                                        stderr=self.log, cwd=folder)
        self.address = f"127.0.0.1:{port}" if port else None
        # What tertulia says when it listens: of each kind of client, where.
        self.listens = {}

    def __enter__(self):
        try:
            if self.address is None:
                self.read_address()
            else:
                self.wait_for_port()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        self.process.terminate()
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.log.close()

    def read_address(self):
        line = self.process.stdout.readline().decode(errors="replace")
        self.listens = dict(re.findall(r'"(\w+)":\s*"([^"]+)"', line))
        if "chat" not in self.listens:
            raise Failed(f"it did not say where it listens: {self.last_words()}")
        self.address = self.listens["chat"]

    def wait_for_port(self):
        deadline = time.monotonic() + 10
        while self.process.poll() is None and time.monotonic() < deadline:
            try:
                socket.create_connection(self.endpoint(), timeout=1).close()
                return
            except OSError:
                time.sleep(0.05)
        raise Failed(f"it does not listen: {self.last_words()}")

    def endpoint(self):
        """Host and port of its chat."""
        host, port = self.address.rsplit(":", 1)
        return host, int(port)

    def resident(self):
        """Bytes of the server that are in memory."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * resource.getpagesize()

    def last_words(self):
        self.log.flush()
        self.log.seek(0)
        return " / ".join(self.log.read().strip().splitlines()[-3:])


def tertulia(engine, folder, settings=()):
    """tertulia on free ports of loopback, with its data in `folder`."""
    command = [SERVER, "--engine", engine, "--data-dir", str(folder / "data"), "--log-level", "warn"]
    command += [argument for setting in settings for argument in ("--set", setting)]
    return Running([*command, "--chat", "127.0.0.1:0", "--http", "127.0.0.1:0", "--admin", "127.0.0.1:0"], folder)


def bare(folder):
    """What sockets cost: a server of the classic dialect that only writes ready lines."""
    return Running([LOADGEN, "bare"], folder)


def load(server, arguments, limit, file=None, faulty=False):
    """What tertulia-loadgen measured of the server; `file` keeps it."""
    return load_on([server.address], [server.process.pid], [], arguments, limit, file, faulty)


def load_on(addresses, pids, store_pids, arguments, limit, file=None, faulty=False):
    """What tertulia-loadgen measured of servers that are one: where its clients go, and the processes of all servers and of what they store in.

    Fails if the load could not be put on to its end and, unless `faulty`, if it showed a fault.
    """
    with tempfile.TemporaryDirectory(prefix="load-") as folder:
        file = file or Path(folder) / "result.json"
        command = [LOADGEN, *map(str, arguments), "--quiet", "--json", str(file)]
        command += ["--target", ",".join(addresses)]
        command += ["--pid", ",".join(map(str, pids))]
        if store_pids:
            command += ["--store-pid", ",".join(map(str, store_pids))]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=limit, check=False)
        except subprocess.TimeoutExpired:
            raise Failed(f"not over after {limit} s") from None
        if done.returncode < 0:
            raise Failed(f"tertulia-loadgen was ended by signal {-done.returncode}")
        if not file.is_file():
            raise Failed((done.stderr.strip() or "no result").splitlines()[-1])
        try:
            result = json.loads(file.read_text())
        except ValueError as error:
            raise Failed(f"its results cannot be read: {error}") from None
        if result["failed"]:
            raise Failed(result["failed"])
        if done.returncode and not faulty:
            raise Failed(f"faults: {result['faults']}")
        return result


@contextmanager
def beside_the_disk(folder, seconds):
    """Appends to a file there meanwhile (disk.py); afterwards it holds what messages would have waited in the last seconds, percentiles in microseconds."""
    waits = {}
    disk = subprocess.Popen([Path(__file__).with_name("disk.py"), folder, str(seconds)], stdout=subprocess.PIPE, text=True)
    try:
        yield waits
    finally:
        disk.terminate()
        told, _ = disk.communicate()
    if disk.returncode:
        raise Failed(f"disk.py has ended with {disk.returncode}")
    waits.update(json.loads(told))


def prepare():
    """Lets this process and those it starts have as many descriptors as the machine allows, and ends what was started when it is ended."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
