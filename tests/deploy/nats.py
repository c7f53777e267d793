"""An image of the NATS server for tests, made of its static program and nothing else, so that none is pulled."""

import hashlib
import io
import json
import os
import platform
import shutil
import tarfile
from pathlib import Path

from support import WORK, need

# One that the cluster can have by itself, instead of the one that is made here.
GIVEN = os.environ.get("TERTULIA_TEST_NATS_IMAGE")
IMAGE = GIVEN or "tertulia.test/nats:test"
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def archive():
    """The image in a file, as `docker save` writes it; None if one was given."""
    if GIVEN:
        return None
    need("nats-server")
    program = Path(shutil.which("nats-server")).read_bytes()
    layer = pack([("usr/local/bin/nats-server", program, 0o755)])
    config = json.dumps({
        "architecture": ARCHITECTURES.get(platform.machine(), platform.machine()),
        "os": "linux",
        "config": {"Env": ["PATH=/usr/local/bin"], "Cmd": ["nats-server"]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
    }).encode()
    manifest = json.dumps([{"Config": "config.json", "RepoTags": [IMAGE], "Layers": ["layer.tar"]}]).encode()
    WORK.mkdir(parents=True, exist_ok=True)
    path = WORK / "nats.tar"
    path.write_bytes(pack([("config.json", config, 0o644), ("layer.tar", layer, 0o644), ("manifest.json", manifest, 0o644)]))
    return path


def pack(files):
    """A tar archive of files, each as its name, its content and its mode."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content, mode in files:
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), mode
            tar.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()
