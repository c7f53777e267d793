"""A Kubernetes for tests: the one that KUBECONFIG names, or one that is started for them and ends with them."""

import itertools
import json
import os
import shlex
import socket
import subprocess
import time
import urllib.request
from pathlib import Path

import nats
from support import ARCHIVE, IMAGE, ROOT, WORK, Background, need, run, skip, wait_until


class Cluster:
    """Where the tests run, with the image made known to it."""

    def __init__(self):
        need("helm", "kubectl", "grpcurl")
        self.down, self.loading = None, None
        # A folder with the programs up, load and down.
        tools = Path(os.environ.get("TERTULIA_TEST_KUBE", ROOT.parent / "shared" / "kube"))
        load = os.environ.get("TERTULIA_TEST_LOAD")
        if "TERTULIA_TEST_IMAGE" not in os.environ and not ARCHIVE.is_file():
            skip("there is no image: tests/deploy/run image makes one")
        if not os.environ.get("KUBECONFIG"):
            if not (tools / "up").is_file() or os.geteuid() != 0:
                skip("KUBECONFIG names no cluster, and none can be started here")
            running = Path(os.environ.get("KUBE_DIR", "/tmp/tertulia-kube"), "pids")
            ours = not (running.is_file() and running.stat().st_size)
            try:
                said = run(tools / "up", timeout=180).stdout
            except (AssertionError, OSError, subprocess.SubprocessError) as error:
                skip(f"KUBECONFIG names no cluster, and none starts here: {error}")
            os.environ["KUBECONFIG"] = said.strip().removeprefix("KUBECONFIG=")
            self.down = tools / "down" if ours else None
            load = load or str(tools / "load")
        self.loading = load
        try:
            if ARCHIVE.is_file():
                self.load(ARCHIVE)
            run("kubectl", "get", "nodes")
        except BaseException:
            self.stop()
            raise

    def load(self, archive):
        """Makes the image in an archive known to the nodes, if it is known how."""
        if self.loading:
            run(*shlex.split(self.loading), archive)

    def stop(self):
        if self.down:
            run(self.down, timeout=60, check=False)
            del os.environ["KUBECONFIG"]


class Namespace:
    """A namespace that enforces the profile `restricted`."""

    numbers = itertools.count()

    def __init__(self, name):
        self.name = f"{name}-{os.getpid()}-{next(Namespace.numbers)}"
        self.forwards = []
        run("kubectl", "create", "namespace", self.name)
        run("kubectl", "label", "namespace", self.name, "pod-security.kubernetes.io/enforce=restricted", "pod-security.kubernetes.io/warn=restricted")
        # Made by a controller, and pods need it.
        wait_until("the default account", lambda: self.kubectl("get", "serviceaccount", "default", check=False).returncode == 0, 30)

    def kubectl(self, *words, **more):
        return run("kubectl", "--namespace", self.name, *words, **more)

    def helm(self, *words, **more):
        return run("helm", "--namespace", self.name, *words, **{"timeout": 240, **more})

    def get(self, *words):
        return json.loads(self.kubectl("get", *words, "--output", "json").stdout)

    def names(self, kinds):
        return sorted(f"{item['kind']}/{item['metadata']['name']}" for item in self.get(kinds)["items"])

    def pod(self, name="tertulia-0"):
        return self.get("pod", name)

    def ready_pod(self, other_than=None, name="tertulia-0", timeout=90):
        """The id of the pod, once it is ready and is not the one of before."""

        def look():
            pod = self.pod(name)
            conditions = {each["type"]: each["status"] for each in pod["status"].get("conditions", [])}
            new = pod["metadata"]["uid"] != other_than and "deletionTimestamp" not in pod["metadata"]
            return pod["metadata"]["uid"] if new and conditions.get("Ready") == "True" else None

        try:
            return wait_until(f"{name} is ready", look, timeout)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.kubectl('describe', 'pod', name, check=False).stdout[-3000:]}") from None

    def pods(self, selector):
        """The pods that are not about to go, by name."""
        items = self.get("pods", "--selector", selector)["items"]
        return {pod["metadata"]["name"]: pod for pod in items if "deletionTimestamp" not in pod["metadata"]}

    def evict(self, pod, check=True):
        """As `kubectl drain` does it."""
        eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod, "namespace": self.name}}
        path = f"/api/v1/namespaces/{self.name}/pods/{pod}/eviction"
        return self.kubectl("create", "--raw", path, "-f", "-", stdin=json.dumps(eviction), check=check)

    def kustomization(self, *parts, components=()):
        """A folder to apply: parts of deploy/kubernetes in this namespace, with the images of the tests."""
        name, _, tag = IMAGE.rpartition(":")
        nats_name, _, nats_tag = nats.IMAGE.rpartition(":")
        folder = WORK / "kustomize" / f"{self.name}-{'-'.join(parts).replace('/', '-')}"
        folder.mkdir(parents=True, exist_ok=True)
        up = os.path.relpath(ROOT / "deploy" / "kubernetes", folder)
        (folder / "kustomization.yaml").write_text(json.dumps({
            "namespace": self.name,
            "resources": [f"{up}/{part}" for part in parts],
            "components": [f"{up}/components/{each}" for each in components],
            "images": [
                {"name": "tertulia", "newName": name, "newTag": tag},
                {"name": "docker.io/library/nats", "newName": nats_name, "newTag": nats_tag},
            ],
        }))
        return folder

    def rolled_out(self, name, timeout=120):
        """Returns once all pods of a StatefulSet are there, of its newest revision."""
        try:
            self.kubectl("rollout", "status", f"statefulset/{name}", f"--timeout={timeout}s", timeout=timeout + 10)
        except AssertionError as error:
            told = [self.kubectl(*words, check=False).stdout[-4000:] for words in (
                ("get", "pods", "--output", "wide"), ("get", "events", "--sort-by=.lastTimestamp"), ("logs", "--tail=20", f"statefulset/{name}"),
            )]
            raise AssertionError("\n".join([str(error), *told])) from None

    def service(self, name, port):
        """Where a port of a service is reached: by its own address where this machine can, else by a forward."""
        return self._reach(self.get("service", name)["spec"]["clusterIP"], port) or self.forward(f"service/{name}", port)

    def reach(self, pod, port):
        """Where a port of a pod is reached, in the same way."""
        return self._reach(self.pod(pod)["status"]["podIP"], port) or self.forward(f"pod/{pod}", port)

    @staticmethod
    def _reach(address, port):
        try:
            socket.create_connection((address, port), 2).close()
            return address, port
        except OSError:
            return None

    def forward(self, target, port):
        """A port of this machine that leads to one of a pod or a service, as long as the namespace is used and also to the next pod."""
        forward = Forward(self.name, target, port)
        self.forwards.append(forward)
        return forward.address

    def remove(self):
        for forward in self.forwards:
            forward.stop()
        run("kubectl", "delete", "namespace", self.name, "--wait=false", check=False)


class Forward:
    """`kubectl port-forward`, started again whenever it ends, at the same port."""

    def __init__(self, namespace, target, port):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.address = probe.getsockname()
        script = 'while :; do kubectl --namespace "$0" port-forward --address 127.0.0.1 "$1" "$2" & wait $!; sleep 0.2; done'
        self.log = WORK / f"forward-{self.address[1]}.log"
        script = f"trap 'kill $!; exit' TERM; {script}"
        self.process = Background("bash", "-c", script, namespace, target, f"{self.address[1]}:{port}", log=self.log)
        wait_until(f"the forward to {target}", self.works, 30)

    def works(self):
        socket.create_connection(self.address, 1).close()
        return True

    def stop(self):
        self.process.stop()


def image_values():
    """How the chart is told to take the image of the tests."""
    repository, _, tag = IMAGE.rpartition(":")
    return ["--set", f"image.repository={repository}", "--set-string", f"image.tag={tag}"]


ADMIN = "tertulia.admin.v1.AdminService"


def admin(address, call, *headers, request="{}"):
    """A call of the admin API, as one makes it by hand."""
    words = [word for header in headers for word in ("-H", header)]
    return run("grpcurl", "-plaintext", *words, "-d", request, f"{address[0]}:{address[1]}", f"{ADMIN}/{call}", check=False)


def page(address, path):
    """What a server answers by HTTP."""
    with urllib.request.urlopen(f"http://{address[0]}:{address[1]}{path}", timeout=10) as answer:
        return answer.read().decode()


class LogFollower:
    """The log of a pod, kept beyond its end."""

    def __init__(self, namespace, pod):
        self.file = WORK / f"log-{time.monotonic_ns()}.txt"
        self.process = Background("kubectl", "--namespace", namespace.name, "logs", "--follow", pod, log=self.file)
        wait_until("the log begins", lambda: self.file.stat().st_size > 0, 20)

    def end(self):
        """What was logged, once the pod has ended."""
        wait_until("the log ends", lambda: not self.process.running(), 60)
        text = self.file.read_text()
        self.file.unlink()
        return text
