"""The image: built by Docker, run as Kubernetes would run it under the restricted profile, looked at from outside."""

import json
import os
import shutil
import subprocess
import time
import unittest

import chat
from docker import Engine, base_images
from support import ARCHIVE, IMAGE, ROOT, WORK, need, run, skip, wait_until

MEGABYTE = 1_000_000
# How long the image may take, in seconds: some minutes on two cores that do nothing else.
BUILD = 1500
ENGINE = None
COMMIT = None


def setUpModule():
    global ENGINE
    WORK.mkdir(parents=True, exist_ok=True)
    ENGINE = Engine()
    try:
        try:
            builder, runtime = base_images(ENGINE)
        except (AssertionError, OSError, subprocess.SubprocessError) as error:
            skip(f"there are no base images to build from, and none can be made here: {error}")
        try:
            build(builder, runtime)
        except subprocess.TimeoutExpired as slow:
            skip(f"the image was not built within {slow.timeout / 60:.0f} minutes: this machine is too slow, or too busy")
    except BaseException:
        ENGINE.stop()
        raise


def tearDownModule():
    ENGINE.stop()


def context():
    """The files that git knows, with the crates beside them, so that the build needs no registry."""
    folder = WORK / "context"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    files = run("git", "ls-files", "--cached", "--others", "--exclude-standard").stdout.splitlines()
    for name in files:
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    run("cargo", "vendor", "--locked", "--versioned-dirs", folder / "vendor", timeout=600)
    return folder


def build(builder, runtime, *more):
    global COMMIT
    COMMIT = run("git", "rev-parse", "--short=12", "HEAD").stdout.strip()
    # No network: whatever the build needs is in the context. Little optimisation: it would take several times as long.
    began = time.monotonic()
    done = ENGINE.docker(
        "build", "--network", "none", "--build-arg", f"BUILDER_IMAGE={builder}", "--build-arg", f"RUNTIME_IMAGE={runtime}",
        "--build-arg", f"COMMIT={COMMIT}", "--build-arg", "LTO=off", "--build-arg", "CODEGEN_UNITS=16", "--build-arg", "OPT_LEVEL=1",
        "--file", "deploy/docker/Dockerfile", "--tag", IMAGE, *more, ".", cwd=context(), timeout=BUILD,
    )
    print(f"image built in {time.monotonic() - began:.0f} s", flush=True)
    shutil.rmtree(WORK / "context")
    ENGINE.docker("save", "--output", ARCHIVE, IMAGE)
    return done


class Container:
    """A container under the conditions of the restricted profile, and more: nothing can be written but the volume."""

    def __init__(self, *words, volume=None, options=()):
        mount = ["--volume", f"{volume}:/var/lib/tertulia"] if volume else []
        self.id = ENGINE.docker(
            "run", "--detach", "--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--health-interval", "1s",
            *mount, *options, IMAGE, *words,
        ).stdout.strip()

    def inspect(self, template):
        return ENGINE.docker("inspect", "--format", template, self.id).stdout.strip()

    def address(self, port=8088):
        return self.inspect("{{.NetworkSettings.IPAddress}}"), port

    def health(self):
        return self.inspect("{{.State.Health.Status}}")

    def wait_ready(self):
        wait_until("the container is healthy", lambda: self.health() == "healthy", 30)
        # That is no more than alive.
        asks = ("exec", self.id, "tertulia-server", "health")
        wait_until("the server is ready", lambda: ENGINE.docker(*asks, check=False).returncode == 0, 30)

    def stop(self):
        """Stops it as `docker stop` does, and returns its exit code."""
        ENGINE.docker("stop", self.id)
        return int(self.inspect("{{.State.ExitCode}}"))

    def logs(self):
        done = ENGINE.docker("logs", self.id)
        return done.stdout + done.stderr

    def remove(self):
        ENGINE.docker("rm", "--force", "--volumes", self.id)


class Dockerfile(unittest.TestCase):
    def test_hadolint_has_nothing_to_say(self):
        need("hadolint")
        run("hadolint", "deploy/docker/Dockerfile")


class Image(unittest.TestCase):
    def setUp(self):
        self.containers = []

    def tearDown(self):
        for container in self.containers:
            container.remove()

    def start(self, *words, **more):
        container = Container(*words, **more)
        self.containers.append(container)
        return container

    def test_metadata(self):
        (image,) = json.loads(ENGINE.docker("image", "inspect", IMAGE).stdout)
        config = image["Config"]
        # Built as here, without optimising across crates.
        self.assertLess(image["Size"], 75 * MEGABYTE)
        self.assertEqual(config["User"], "65532:65532")
        self.assertEqual(sorted(config["ExposedPorts"]), ["8088/tcp", "8089/tcp", "8090/tcp"])
        self.assertEqual(list(config["Volumes"]), ["/var/lib/tertulia"])
        for name in ("title", "description", "licenses", "version", "revision"):
            self.assertTrue(config["Labels"][f"org.opencontainers.image.{name}"], name)
        self.assertEqual([line for line in config["Env"] if line.startswith("TERTULIA")], ["TERTULIA_CONFIG=/etc/tertulia/tertulia.yaml"], "options would win over a mounted file")
        print(f"image of {image['Size'] / MEGABYTE:.1f} MB", flush=True)

    def test_there_is_no_shell(self):
        done = ENGINE.docker("run", "--rm", "--entrypoint", "/bin/sh", IMAGE, "-c", "true", check=False)
        self.assertNotEqual(done.returncode, 0)

    def test_the_version_names_the_commit(self):
        said = ENGINE.docker("run", "--rm", IMAGE, "--version").stdout
        self.assertIn(f"(commit {COMMIT};", said)

    def test_the_configuration_of_the_image_is_valid(self):
        ENGINE.docker("run", "--rm", IMAGE, "check-config", "--config", "/etc/tertulia/tertulia.yaml")

    def test_arguments_add_to_the_configuration_of_the_image(self):
        container = self.start("--log-level", "debug")
        container.wait_ready()
        chat.round_trip(container.address())
        said = json.loads(ENGINE.docker("exec", container.id, "tertulia-server", "print-config", "--format", "json").stdout)
        self.assertEqual(said["log"]["data_dir"], "/var/lib/tertulia")

    def test_it_serves_a_chat_is_healthy_and_stops_cleanly(self):
        container = self.start()
        container.wait_ready()
        chat.round_trip(container.address())
        said = ENGINE.docker("exec", container.id, "tertulia", "127.0.0.1:8088", "--user", "guest", "--join", "inside")
        self.assertIn("joined inside", said.stderr)
        member = chat.Client(container.address(), "member")
        member.join("hall")
        began = time.monotonic()
        self.assertEqual(container.stop(), 0)
        self.assertLess(time.monotonic() - began, 8, "it drains before Docker kills it")
        self.assertEqual(member.expect("GoingAway")["reason"], "the server is stopping")
        member.close()
        for line in container.logs().splitlines():
            json.loads(line)

    def test_the_admin_api_is_on_loopback_only(self):
        container = self.start()
        container.wait_ready()
        with self.assertRaises(OSError):
            chat.Client(container.address(8089), "nobody")
        said = json.loads(ENGINE.docker("exec", container.id, "tertulia-server", "admin", "GetShardMap").stdout)
        self.assertTrue(said["nodes"][0]["answering"], said)

    def test_an_unhealthy_server_is_reported(self):
        # It listens for HTTP where the health check of the image does not ask.
        container = self.start("--http", "127.0.0.1:18090", "--chat", "127.0.0.1:8088", options=("--health-retries", "1", "--health-start-period", "1ms"))
        wait_until("the container is unhealthy", lambda: container.health() == "unhealthy", 30)

    def test_a_wrong_configuration_says_why(self):
        container = self.start("--set", "limits.gruops=1")
        wait_until("it ends", lambda: container.inspect("{{.State.Status}}") == "exited", 10)
        self.assertEqual(container.inspect("{{.State.ExitCode}}"), "2")
        self.assertIn("limits.gruops", container.logs())
        self.assertEqual(len(container.logs().splitlines()), 1)

    def test_messages_outlive_the_container_on_a_volume(self):
        volume = f"tertulia-test-{os.getpid()}"
        try:
            first = self.start(volume=volume)
            first.wait_ready()
            load = chat.Load(first.address(), "kept").start()
            load.progress()
            self.assertEqual(first.stop(), 0)
            second = self.start(volume=volume)
            second.wait_ready()
            load.address = second.address()
            load.progress()
            # Not even an end without a warning takes an acknowledged post away.
            ENGINE.docker("kill", "--signal", "KILL", second.id)
            third = self.start(volume=volume)
            third.wait_ready()
            load.address = third.address()
            load.progress()
            load.stop()
            load.verify()
            self.assertEqual(third.stop(), 0)
        finally:
            for container in self.containers:
                container.remove()
            self.containers.clear()
            ENGINE.docker("volume", "rm", "--force", volume)


class Layers(unittest.TestCase):
    def test_dependencies_are_not_built_again_when_only_sources_change(self):
        """Up to the layer of the dependencies, the build's steps are independent of what is in the sources."""
        dockerfile = (ROOT / "deploy/docker/Dockerfile").read_text()
        stage = dockerfile.split("AS dependencies")[1].split("FROM dependencies")[0]
        copied = [line.split()[1:] for line in stage.splitlines() if line.startswith("COPY")]
        self.assertEqual(copied, [["Cargo.lock", "vendor*", "vendor/"], ["--from=manifests", "/manifests", "./"]])
        self.assertNotIn("COMMIT", stage)
