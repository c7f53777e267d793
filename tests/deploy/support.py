"""What the tests of image, manifests and chart share: tools, commands, waiting, and skipping where a tool cannot be had."""

import os
import shutil
import signal
import subprocess
import sys
import time
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
WORK = ROOT / "target" / "deploy"
IMAGE = os.environ.get("TERTULIA_TEST_IMAGE", "tertulia.test/tertulia:test")
# What `docker save` wrote of IMAGE, for the nodes of a cluster.
ARCHIVE = WORK / "image.tar"
# Continuous integration sets it: there, a test that cannot run is a failure.
REQUIRED = bool(os.environ.get("TERTULIA_TEST_REQUIRED"))

os.environ["PATH"] += os.pathsep + str(ROOT / ".tools" / "bin")


def skip(why):
    """Leaves a test or a module out, with the reason; where all must run, it fails instead."""
    if REQUIRED:
        raise AssertionError(f"cannot run, and must here: {why}")
    raise unittest.SkipTest(why)


def need(*names):
    """Brings tools into reach, or skips."""
    missing = [name for name in names if not shutil.which(name)]
    if missing:
        done = subprocess.run([ROOT / "tests/tools/fetch", *missing], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            skip(done.stderr.strip())


def need_python_libraries():
    """PyYAML and the Kubernetes schemas, from where the tool that depends on them has them."""
    need("kubernetes-validate")
    sys.path.append(str(ROOT / ".tools" / "python" / "kubernetes-validate"))


def run(*command, timeout=120, check=True, stdin=None, env=None, cwd=ROOT):
    """Runs a command to its end and returns it, with its output as text. A failure tells what the command said."""
    words = [str(word) for word in command]
    done = subprocess.run(
        words, input=stdin, stdin=None if stdin is not None else subprocess.DEVNULL, capture_output=True, text=True,
        timeout=timeout, check=False, cwd=cwd, env={**os.environ, **(env or {})},
    )
    if check and done.returncode != 0:
        said = (done.stdout + done.stderr)[-4000:]
        raise AssertionError(f"`{' '.join(words)}` exited with {done.returncode}:\n{said}")
    return done


def wait_until(what, condition, timeout=60, every=0.1):
    """Waits for a condition to return something true, and returns that. It may fail meanwhile: the last failure is told."""
    deadline = time.monotonic() + timeout
    last = None
    while True:
        try:
            result = condition()
            if result:
                return result
            last = result
        except (OSError, AssertionError, subprocess.SubprocessError) as error:
            last = error
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout} s: {what} (last: {last!r})")
        time.sleep(every)


def server_binary():
    """The built server, for `check-config`: the one that TERTULIA_TEST_SERVER names, or that of this workspace."""
    if os.environ.get("TERTULIA_TEST_SERVER"):
        return Path(os.environ["TERTULIA_TEST_SERVER"])
    # Where cargo puts it; a relative path is one from the root, where make runs.
    target = ROOT / (os.environ.get("CARGO_TARGET_DIR") or "target")
    for profile in ("debug", "release"):
        program = target / profile / "tertulia-server"
        if program.is_file():
            return program
    skip("the server is not built: cargo build --bin tertulia-server")


class Background:
    """A process of this test. It ends with it, and only by its own id."""

    def __init__(self, *command, log=None, env=None):
        self.log = log
        output = open(log, "wb") if log else subprocess.DEVNULL
        self.process = subprocess.Popen(
            [str(word) for word in command], stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
            env={**os.environ, **(env or {})}, start_new_session=True,
        )
        if log:
            output.close()

    def running(self):
        return self.process.poll() is None

    def stop(self, timeout=30):
        if self.running():
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(timeout)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        return self.process.returncode

    def tail(self):
        return Path(self.log).read_text(errors="replace")[-2000:] if self.log else ""
