"""The overlays and the chart in a Kubernetes, in namespaces that enforce the profile `restricted`, used as people use them."""

import json
import socket
import ssl
import tempfile
import unittest
from pathlib import Path

import chat
from cluster import ADMIN, Cluster, LogFollower, Namespace, admin, image_values, page
from support import ROOT, need, run, server_binary, wait_until

CHART = ROOT / "helm" / "tertulia"
CLUSTER = None


def setUpModule():
    global CLUSTER
    CLUSTER = Cluster()


def tearDownModule():
    CLUSTER.stop()


def serves(test, namespace):
    """Chat and metrics work through the services."""
    ops = namespace.service("tertulia-ops", 8090)
    # A new service may have the address of one that was removed, and leads there until the node has heard of the change.
    wait_until("the services lead to the server", lambda: page(ops, "/readyz").strip() == "ok", 20)
    wait_until("chat works", lambda: chat.round_trip(namespace.service("tertulia", 8088)) or True, 20)
    test.assertIn("tertulia_connections_open", page(ops, "/metrics"))


class Overlays(unittest.TestCase):
    """kubectl apply -k"""

    def setUp(self):
        self.namespace = Namespace("overlay")

    def tearDown(self):
        self.namespace.remove()

    def apply(self, overlay, *components):
        self.folder = self.namespace.kustomization(f"overlays/{overlay}", components=components)
        said = self.namespace.kubectl("apply", "-k", self.folder)
        self.assertNotIn("Warning", said.stderr, "of the Pod Security profile")
        self.namespace.ready_pod()
        serves(self, self.namespace)

    def test_memory(self):
        self.apply("memory")
        said = admin(self.namespace.forward("pod/tertulia-0", 8089), "ListGroups")
        self.assertIn("round-trip", said.stdout, said.stderr)
        self.namespace.kubectl("delete", "-k", self.folder)
        self.assertEqual(self.namespace.names("statefulset,service,networkpolicy,poddisruptionbudget,pvc"), [])

    def test_single_with_an_open_admin_api(self):
        self.namespace.kubectl("create", "secret", "generic", "tertulia-admin", "--from-literal=token=sesame")
        self.apply("single", "admin-token")
        address = self.namespace.service("tertulia-ops", 8089)
        self.assertIn("Unauthenticated", admin(address, "ListGroups").stderr)
        said = admin(address, "ListGroups", "authorization: Bearer sesame")
        self.assertIn("round-trip", said.stdout, said.stderr)
        self.namespace.kubectl("delete", "-k", self.folder)
        self.assertEqual(self.namespace.names("statefulset,service,networkpolicy,poddisruptionbudget,pvc"), ["PersistentVolumeClaim/data-tertulia-0"])


class Chart(unittest.TestCase):
    """helm install, and the life of a release. The tests follow each other."""

    @classmethod
    def setUpClass(cls):
        cls.namespace = Namespace("chart")
        cls.namespace.kubectl("create", "secret", "generic", "chat-admin", "--from-literal=token=sesame")
        cls.install()

    @classmethod
    def tearDownClass(cls):
        cls.namespace.remove()

    @classmethod
    def values(cls):
        values = ["admin.existingSecret=chat-admin", "config.admin.address=0.0.0.0:8089", "persistence.size=1Gi", "config.log.retention.messages=1000000"]
        return [*image_values(), *(word for value in values for word in ("--set", value))]

    @classmethod
    def install(cls):
        said = cls.namespace.helm("install", "tertulia", CHART, "--wait", "--timeout", "120s", *cls.values())
        assert "would violate PodSecurity" not in said.stdout + said.stderr, said.stderr
        cls.namespace.ready_pod()

    def upgrade(self, *more, **options):
        return self.namespace.helm("upgrade", "tertulia", CHART, "--wait", "--timeout", "120s", *self.values(), *more, **options)

    def test_1_helm_test(self):
        self.namespace.helm("test", "tertulia", "--timeout", "60s")

    def test_2_it_serves_by_its_services(self):
        serves(self, self.namespace)
        address = self.namespace.service("tertulia-ops", 8089)
        self.assertIn("Unauthenticated", admin(address, "ListGroups").stderr)
        self.assertIn("round-trip", admin(address, "ListGroups", "authorization: Bearer sesame").stdout)
        self.assertEqual(self.namespace.pod()["status"]["containerStatuses"][0]["restartCount"], 0)

    def test_3_it_serves_by_port_forwards(self):
        chat.round_trip(self.namespace.forward("service/tertulia", 8088), "forwarded")
        self.assertIn("tertulia_build_info", page(self.namespace.forward("pod/tertulia-0", 8090), "/metrics"))
        address = self.namespace.forward("pod/tertulia-0", 8089)
        self.assertIn("forwarded", admin(address, "ListGroups", "authorization: Bearer sesame").stdout)

    def test_4_the_client_in_the_image(self):
        said = self.namespace.kubectl("exec", "tertulia-0", "--", "tertulia", "127.0.0.1:8088", "--join", "round-trip", "--last", "1")
        self.assertIn("\thello", said.stdout)

    def test_5_a_changed_configuration_rolls_the_pod(self):
        before = self.namespace.ready_pod()
        self.upgrade("--set", "config.limits.groups=4321")
        self.namespace.ready_pod(other_than=before)
        config = self.namespace.kubectl("exec", "tertulia-0", "--", "tertulia-server", "print-config", "--config", "/etc/tertulia/tertulia.yaml").stdout
        self.assertIn("groups = 4321", config)

    def test_6_an_upgrade_to_a_wrong_configuration_leaves_what_runs_alone(self):
        before = self.namespace.ready_pod()
        said = self.upgrade("--set", "config.limits.conections=5", check=False)
        self.assertNotEqual(said.returncode, 0)
        self.assertIn("unknown key 'limits.conections'", said.stdout + said.stderr)
        self.assertEqual(self.namespace.ready_pod(), before)
        serves(self, self.namespace)
        self.upgrade()

    def test_6_an_upgrade_that_kubernetes_would_refuse_changes_no_configuration(self):
        before = self.namespace.ready_pod()
        config = self.namespace.get("configmap", "tertulia")["data"]
        for more, why in (("config.log.engine=memory", "are on the claim data-tertulia-0"), ("persistence.size=2Gi", "persistence.size of an installed release")):
            said = self.upgrade("--set", more, check=False)
            self.assertNotEqual(said.returncode, 0)
            self.assertIn(why, said.stdout + said.stderr)
        self.assertEqual(self.namespace.get("configmap", "tertulia")["data"], config)
        self.assertEqual(self.namespace.ready_pod(), before)

    def test_7_interruptions_lose_nothing(self):
        address = self.namespace.service("tertulia", 8088)
        interruptions = {
            "rollout restart": lambda: self.namespace.kubectl("rollout", "restart", "statefulset/tertulia"),
            "deletion": lambda: self.namespace.kubectl("delete", "pod", "tertulia-0", "--wait=false"),
            "eviction": lambda: self.namespace.evict("tertulia-0"),
            "upgrade": lambda: self.upgrade("--set", "config.limits.groups=777777"),
            "kill": lambda: self.namespace.kubectl("delete", "pod", "tertulia-0", "--grace-period=0", "--force"),
        }
        for name, interrupt in interruptions.items():
            with self.subTest(name):
                load = chat.Load(address, f"during {name}").start()
                before = self.namespace.ready_pod()
                log = LogFollower(self.namespace, "tertulia-0") if name != "kill" else None
                interrupt()
                self.namespace.ready_pod(other_than=before)
                load.progress()
                # One of the two may come back later than the other.
                wait_until("both clients were interrupted and came back", lambda: min(load.reconnects.values()) > 1, 30)
                load.progress()
                load.stop()
                load.verify()
                if log:
                    self.assertIn('"stopped"', log.end().splitlines()[-1], "the server did not end by itself")

    def test_8_parking_and_coming_back(self):
        self.upgrade("--set", "replicas=0")
        wait_until("the pod is gone", lambda: not self.namespace.names("pod"), 60)
        self.upgrade()
        self.namespace.ready_pod()

    def test_9_uninstalling_leaves_the_volume_and_nothing_else(self):
        address = self.namespace.service("tertulia", 8088)
        load = chat.Load(address, "last").start()
        load.progress()
        load.stop()
        kinds = "statefulset,service,configmap,secret,serviceaccount,networkpolicy,poddisruptionbudget,job,pod,pvc"
        self.namespace.helm("uninstall", "tertulia", "--wait", "--timeout", "90s")
        wait_until("the pod is gone", lambda: not self.namespace.names("pod"), 60)
        # What was there before: the Secret, and what every namespace is given.
        given = ("ConfigMap/kube-root-ca.crt", "ConfigMap/openshift-service-ca.crt", "ServiceAccount/default", "Secret/chat-admin")
        left = [name for name in self.namespace.names(kinds) if name not in given]
        self.assertEqual(left, ["PersistentVolumeClaim/data-tertulia-0"])
        self.install()
        load.verify(self.namespace.service("tertulia", 8088))


class Authority:
    """Vouches for certificates, made by openssl in a folder."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self.folder.mkdir()
        self.openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj", f"/CN={self.folder.name}",
                     "-keyout", "ca.key", "-out", "ca.crt")

    def openssl(self, *words):
        run("openssl", *words, cwd=self.folder)

    def certify(self, name, *hosts):
        """Writes NAME.crt and NAME.key."""
        self.openssl("req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.csr")
        (self.folder / "more").write_text("basicConstraints=CA:FALSE\n" + (f"subjectAltName={','.join(f'DNS:{host}' for host in hosts)}\n" if hosts else ""))
        self.openssl("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", "more", "-out", f"{name}.crt")

    def path(self, file):
        return self.folder / file

    def trusting(self):
        return ssl.create_default_context(cafile=self.path("ca.crt"))


class Tls(unittest.TestCase):
    """The chart with a certificate for each port, as cert-manager leaves them, and a renewal."""

    def setUp(self):
        need("openssl")
        self.namespace = Namespace("tls")
        self.folder = tempfile.TemporaryDirectory(dir=ROOT / "target")
        self.name = f"tertulia.{self.namespace.name}.svc"

    def tearDown(self):
        self.namespace.remove()
        self.folder.cleanup()

    def authority(self, name):
        """A new authority and a certificate of it for the server."""
        authority = Authority(Path(self.folder.name, name))
        authority.certify("server", self.name)
        return authority

    def secret(self, authority, keys=("tls.crt", "tls.key", "ca.crt")):
        files = {"tls.crt": "server.crt", "tls.key": "server.key", "ca.crt": "ca.crt"}
        words = [f"--from-file={key}={authority.path(files[key])}" for key in keys]
        text = self.namespace.kubectl("create", "secret", "generic", "server-tls", "--type=kubernetes.io/tls", *words, "--dry-run=client", "--output=yaml").stdout
        self.namespace.kubectl("apply", "--server-side", "--filename", "-", stdin=text)

    def test_helm_test_names_the_key_that_is_missing(self):
        self.secret(self.authority("silent"), keys=("tls.crt", "tls.key"))
        values = ["tls.chat.existingSecret=server-tls", "config.log.engine=memory", "configCheck.enabled=false", "tests.activeDeadlineSeconds=20"]
        self.namespace.helm("install", "tertulia", CHART, "--wait", "--timeout", "120s", *image_values(), *(word for value in values for word in ("--set", value)))
        test = self.namespace.helm("test", "tertulia", "--timeout", "60s", check=False)
        self.assertNotEqual(test.returncode, 0)
        said = self.namespace.kubectl("logs", "tertulia-test", "--container", "chat", check=False)
        self.assertIn("/secrets/server-tls/ca.crt", test.stdout + test.stderr + said.stdout)

    def test_every_port_and_a_renewal(self):
        old = self.authority("old")
        old.certify("ops")
        self.secret(old)
        values = [f"tls.{port}.existingSecret=server-tls" for port in ("chat", "admin", "http")]
        values += ["tls.admin.clientCASecret=server-tls", "config.admin.address=0.0.0.0:8089", "config.tls.reload_interval=500ms", "persistence.enabled=false"]
        self.namespace.helm("install", "tertulia", CHART, "--wait", "--timeout", "120s", *image_values(), *(word for value in values for word in ("--set", value)))
        before = self.namespace.ready_pod()
        self.namespace.helm("test", "tertulia", "--timeout", "60s")

        address = self.namespace.service("tertulia", 8088)
        member = chat.Client(address, "member", tls=old.trusting(), name=self.name)
        member.join("hall")
        first = member.post("hall", "before", "id-1")["seq"]
        ops = self.namespace.service("tertulia-ops", 8090)
        with ssl.create_default_context(cafile=old.path("ca.crt")).wrap_socket(socket.create_connection(ops, 10), server_hostname=self.name) as stream:
            stream.sendall(b"GET /readyz HTTP/1.0\r\n\r\n")
            self.assertTrue(stream.makefile("rb").read().endswith(b"ok\n"))

        port = self.namespace.service("tertulia-ops", 8089)
        words = ["-cacert", old.path("ca.crt"), "-authority", self.name, "-max-time", "10", "-d", "{}"]
        mine = ["-cert", old.path("ops.crt"), "-key", old.path("ops.key")]
        said = run("grpcurl", *words, *mine, f"{port[0]}:{port[1]}", f"{ADMIN}/ListGroups", check=False)
        self.assertIn("hall", said.stdout, said.stderr)
        self.assertNotEqual(run("grpcurl", *words, f"{port[0]}:{port[1]}", f"{ADMIN}/ListGroups", check=False).returncode, 0)

        new = self.authority("new")
        self.secret(new)
        # The kubelet looks at Secrets once a minute, and at a pod at once when it has changed.
        self.namespace.kubectl("annotate", "pod", "tertulia-0", "renewed=now")

        def shown():
            chat.Client(address, "late", tls=new.trusting(), name=self.name).close()
            return True

        wait_until("the new certificate is shown", shown, 120, every=1)
        self.assertEqual(member.post("hall", "after", "id-2")["seq"], first + 1)
        self.assertEqual(self.namespace.ready_pod(), before)
        self.assertEqual(self.namespace.pod()["status"]["containerStatuses"][0]["restartCount"], 0)
        member.close()


class Authentication(unittest.TestCase):
    """Clients that have to show a token, and keys that are replaced."""

    def setUp(self):
        self.namespace = Namespace("authentication")
        self.folder = tempfile.TemporaryDirectory(dir=ROOT / "target")

    def tearDown(self):
        self.namespace.remove()
        self.folder.cleanup()

    def key(self, name):
        """A file with a new key."""
        file = Path(self.folder.name, name)
        file.write_text(run(server_binary(), "auth", "key").stdout)
        return file

    def token(self, key, *words):
        return run(server_binary(), "auth", "token", "--auth-keys-file", key, "--user", "ada", *words).stdout.strip()

    def secret(self, name, key):
        text = self.namespace.kubectl("create", "secret", "generic", name, f"--from-file=keys.json={key}", "--dry-run=client", "--output=yaml").stdout
        self.namespace.kubectl("apply", "--server-side", "--filename", "-", stdin=text)

    def is_refused(self, address, *words, code="unauthenticated", **more):
        with self.assertRaises(chat.Refused) as refused:
            chat.Client(address, *words, **more)
        self.assertEqual(refused.exception.args[0]["code"], code)

    def test_the_chart_and_other_keys(self):
        old, new = self.key("old"), self.key("new")
        self.secret("chat-keys", old)
        values = ["auth.existingSecret=chat-keys", "config.tls.reload_interval=500ms", "persistence.enabled=false"]
        self.namespace.helm("install", "tertulia", CHART, "--wait", "--timeout", "120s", *image_values(), *(word for value in values for word in ("--set", value)))
        before = self.namespace.ready_pod()
        self.namespace.helm("test", "tertulia", "--timeout", "60s")
        address = self.namespace.service("tertulia", 8088)
        wait_until("the service leads to the server", lambda: chat.Client(address, None, token=self.token(old)).close() or True, 20)
        ada = chat.Client(address, None, token=self.token(old, "--read", "D*", "--post", "Dogs"))
        self.assertEqual(ada.welcome["user"], "ada")
        ada.join("Dogs")
        self.assertEqual(ada.post("Dogs", "before", "id-1")["seq"], 1)
        with self.assertRaises(chat.Refused) as refused:
            ada.join("Cats")
        self.assertEqual(refused.exception.args[0]["code"], "forbidden")
        self.is_refused(address, "ada")
        self.is_refused(address, None, token=self.token(new))

        self.secret("chat-keys", new)
        # The kubelet looks at Secrets once a minute, and at a pod at once when it has changed.
        self.namespace.kubectl("annotate", "pod", "tertulia-0", "renewed=now")

        def is_taken():
            try:
                chat.Client(address, None, token=self.token(new)).close()
            except chat.Refused:
                return False
            return True

        wait_until("the new key counts", is_taken, 120, every=1)
        self.is_refused(address, None, token=self.token(old))
        # Who is in stays until its token ends.
        self.assertEqual(ada.post("Dogs", "after", "id-2")["seq"], 2)
        self.assertEqual(self.namespace.ready_pod(), before)
        ada.close()

    def test_the_component(self):
        key = self.key("keys")
        self.secret("tertulia-auth", key)
        self.namespace.kubectl("apply", "-k", self.namespace.kustomization("overlays/memory", components=["authentication"]))
        self.namespace.ready_pod()
        address = self.namespace.forward("pod/tertulia-0", 8088)
        self.is_refused(address, "ada")
        ada = chat.Client(address, None, token=self.token(key))
        ada.join("Dogs")
        self.assertEqual(ada.post("Dogs", "woof", "id-1")["seq"], 1)
        ada.close()


class NotReady(unittest.TestCase):
    """A server that is alive and not ready, as one whose disk is full."""

    def setUp(self):
        self.namespace = Namespace("not-ready")

    def tearDown(self):
        self.namespace.remove()

    def test_moderators_get_there(self):
        self.namespace.kubectl("create", "secret", "generic", "chat-admin", "--from-literal=token=sesame")
        values = ["admin.existingSecret=chat-admin", "config.admin.address=0.0.0.0:8089", "config.log.engine=memory", "readinessProbe.httpGet.path=/nowhere"]
        self.namespace.helm("install", "tertulia", CHART, *image_values(), *(word for value in values for word in ("--set", value)))
        wait_until("the service of operators leads there", lambda: self.led_to("tertulia-ops"), 60)
        self.assertEqual(self.led_to("tertulia"), [])
        address = self.namespace.service("tertulia-ops", 8089)
        wait_until("a call is answered", lambda: admin(address, "ListGroups", "authorization: Bearer sesame").returncode == 0, 60)
        conditions = {each["type"]: each["status"] for each in self.namespace.pod()["status"]["conditions"]}
        self.assertEqual(conditions["Ready"], "False")

    def led_to(self, service):
        """The addresses to which a service leads."""
        slices = self.namespace.get("endpointslices", "--selector", f"kubernetes.io/service-name={service}")["items"]
        return [each["addresses"] for slice in slices for each in slice["endpoints"] or [] if each["conditions"].get("ready")]


class WrongConfiguration(unittest.TestCase):
    """Without the check before: a pod that says why."""

    def setUp(self):
        self.namespace = Namespace("wrong")

    def tearDown(self):
        self.namespace.remove()

    def test_the_pod_says_why(self):
        self.namespace.helm(
            "install", "tertulia", CHART, *image_values(), "--set", "configCheck.enabled=false", "--set", "config.log.engine=memory",
            "--set", "config.limits.message_bytes=huge",
        )

        def reason():
            status = self.namespace.pod()["status"]["containerStatuses"][0]
            ended = status["state"].get("terminated") or status["lastState"].get("terminated")
            return ended if ended and ended.get("message") else None

        ended = wait_until("the pod has ended", reason, 60)
        self.assertEqual(ended["exitCode"], 2)
        self.assertIn("limits.message_bytes", ended["message"])
        # The way back: the right configuration, and another pod.
        self.namespace.helm("upgrade", "tertulia", CHART, *image_values(), "--set", "config.log.engine=memory")
        self.namespace.kubectl("delete", "pod", "tertulia-0", "--wait=false")
        self.namespace.ready_pod()

    def test_an_installation_is_refused(self):
        said = self.namespace.helm("install", "tertulia", CHART, *image_values(), "--set", "config.log.engine=stone", check=False)
        self.assertNotEqual(said.returncode, 0)
        self.assertIn("log.engine", said.stdout + said.stderr)
        self.assertEqual(self.namespace.names("statefulset,service,pvc"), [])


class Monitoring(unittest.TestCase):
    """What the Prometheus Operator and the sidecar of Grafana look for is taken by the cluster."""

    KINDS = {"servicemonitors": "ServiceMonitor", "prometheusrules": "PrometheusRule"}

    def setUp(self):
        self.namespace = Namespace("monitoring")
        self.made = []
        for plural, kind in self.KINDS.items():
            name = f"{plural}.monitoring.coreos.com"
            if run("kubectl", "get", "crd", name, check=False).returncode == 0:
                continue
            definition = {
                "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": name},
                "spec": {
                    "group": "monitoring.coreos.com", "scope": "Namespaced", "names": {"plural": plural, "singular": kind.lower(), "kind": kind},
                    "versions": [{
                        "name": "v1", "served": True, "storage": True,
                        "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}},
                    }],
                },
            }
            run("kubectl", "apply", "-f", "-", stdin=json.dumps(definition))
            self.made.append(name)
            run("kubectl", "wait", "--for=condition=Established", f"crd/{name}", "--timeout=30s")

    def tearDown(self):
        self.namespace.remove()
        for name in self.made:
            run("kubectl", "delete", "crd", name, "--wait=false")

    def test_they_are_made_and_lead_to_the_server(self):
        on = [word for part in ("serviceMonitor", "prometheusRule", "dashboards") for word in ("--set", f"metrics.{part}.enabled=true")]
        self.namespace.helm("install", "tertulia", CHART, "--wait", "--timeout", "90s", *image_values(), *on, "--set", "config.log.engine=memory")
        monitor = self.namespace.get("servicemonitor", "tertulia")["spec"]
        labels = ",".join(f"{key}={value}" for key, value in monitor["selector"]["matchLabels"].items())
        (service,) = self.namespace.get("service", "--selector", labels)["items"]
        (port,) = [each for each in service["spec"]["ports"] if each["name"] == monitor["endpoints"][0]["port"]]
        address = self.namespace.service(service["metadata"]["name"], port["port"])
        self.assertIn("tertulia_build_info", page(address, monitor["endpoints"][0]["path"]))
        self.assertIn("groups", self.namespace.get("prometheusrule", "tertulia")["spec"])
        dashboards = self.namespace.names("configmap")
        for path in (ROOT / "deploy/grafana/dashboards").glob("*.json"):
            self.assertIn(f"ConfigMap/tertulia-dashboard-{path.stem}", dashboards)
