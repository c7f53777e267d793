"""A Docker engine for tests: the one of this machine, or one that is started for them and ends with them; and local stand-ins for
the base images, so that nothing is pulled."""

import os
import shutil
import tarfile

from support import WORK, Background, need, run, skip, wait_until

BUILDER = "tertulia.test/builder"
RUNTIME = "tertulia.test/runtime"


class Engine:
    """What `docker` talks to."""

    def __init__(self):
        self.daemon = None
        self.host = os.environ.get("DOCKER_HOST")
        if shutil.which("docker") and run("docker", "info", check=False).returncode == 0:
            return
        if os.geteuid() != 0:
            skip("no Docker engine is running, and only root can start one")
        need("dockerd")
        folder = WORK / "docker"
        folder.mkdir(parents=True, exist_ok=True)
        socket = folder / "docker.sock"
        self.host = f"unix://{socket}"
        # Without rules in the packet filter: containers are reached by their address.
        self.daemon = Background(
            "dockerd", "--data-root", folder / "data", "--exec-root", folder / "exec", "--pidfile", folder / "pid", "--host", self.host,
            "--iptables=false", "--ip6tables=false", "--ip-masq=false", log=folder / "log",
        )
        try:
            wait_until("the Docker engine answers", lambda: self.docker("info"))
        except AssertionError as error:
            told = self.daemon.tail()
            self.stop()
            skip(f"the Docker engine does not start: {error}\n{told}")

    def docker(self, *words, **more):
        environment = {"DOCKER_HOST": self.host} if self.host else {}
        return run("docker", *words, env=environment, **more)

    def has(self, image):
        return self.docker("image", "inspect", image, check=False).returncode == 0

    def stop(self):
        if self.daemon:
            self.daemon.stop()


def base_images(engine):
    """The images to build from: those that the environment names, or stand-ins."""
    builder, runtime = os.environ.get("TERTULIA_TEST_BUILDER_IMAGE"), os.environ.get("TERTULIA_TEST_RUNTIME_IMAGE")
    if not builder:
        builder = BUILDER
        if not engine.has(builder):
            import_builder(engine)
    if not runtime:
        runtime = RUNTIME
        if not engine.has(runtime):
            import_runtime(engine)
    return builder, runtime


def import_builder(engine):
    """Debian with a C compiler, and the Rust of this machine: what the image `rust` is."""
    need("debootstrap")
    root = WORK / "builder"
    shutil.rmtree(root, ignore_errors=True)
    run("debootstrap", "--variant=minbase", "--include=gcc,libc6-dev,make,ca-certificates", codename(), root, timeout=600)
    sysroot = run("rustc", "--print", "sysroot").stdout.strip()
    archive = WORK / "builder.tar"
    with tarfile.open(archive, "w") as tar:
        for name in sorted(os.listdir(root)):
            if name not in ("proc", "sys", "dev"):
                tar.add(root / name, name, filter=lambda item: None if item.name.startswith(("var/cache", "var/lib/apt")) else item)
        for name in ("bin", "lib"):
            tar.add(f"{sysroot}/{name}", f"opt/rust/{name}", filter=lambda item: None if "/rustlib/src" in item.name else item)
    shutil.rmtree(root)
    path = "ENV PATH=/opt/rust/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    engine.docker("import", "--change", path, archive, BUILDER, timeout=300)
    archive.unlink()


def import_runtime(engine):
    """libc, libgcc and the zones of time out of their Debian packages, and two users: what the image `cc` of distroless is."""
    folder = WORK / "runtime"
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "root" / "etc").mkdir(parents=True)
    run("apt-get", "download", "-qq", "libc6", "libgcc-s1", "gcc-12-base", "tzdata", cwd=folder)
    for package in folder.glob("*.deb"):
        run("dpkg", "-x", package, folder / "root")
    (folder / "root/etc/passwd").write_text("root:x:0:0:root:/root:/sbin/nologin\nnonroot:x:65532:65532:nonroot:/home/nonroot:/sbin/nologin\n")
    (folder / "root/etc/group").write_text("root:x:0:\nnonroot:x:65532:\n")
    for name in ("tmp", "proc", "sys", "dev", "home/nonroot"):
        (folder / "root" / name).mkdir(parents=True, exist_ok=True)
    archive = folder / "root.tar"
    with tarfile.open(archive, "w") as tar:
        tar.add(folder / "root", ".")
    engine.docker("import", archive, RUNTIME)
    shutil.rmtree(folder)


def codename():
    for line in open("/etc/os-release", encoding="utf-8"):
        if line.startswith("VERSION_CODENAME="):
            return line.split("=")[1].strip().strip('"')
    skip("this machine is not Debian, so there is nothing to make base images of: set TERTULIA_TEST_BUILDER_IMAGE and TERTULIA_TEST_RUNTIME_IMAGE")
