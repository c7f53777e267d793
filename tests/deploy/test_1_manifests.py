"""Chart and manifests, without a cluster: linted, rendered over a matrix of values, held against the schemas of Kubernetes, against rules of
our own, and the configuration in them against the server."""

import configparser
import copy
import json
import re
import shlex
import shutil
import tempfile
import unittest
from pathlib import Path

from support import ROOT, need, need_python_libraries, run, server_binary

need_python_libraries()
import yaml  # noqa: E402

from api import Api  # noqa: E402
from manifests import Manifests, check, check_dns, check_restricted, check_traces, effective, quantity, seconds  # noqa: E402

CHART = ROOT / "helm" / "tertulia"
VALUES = sorted((ROOT / "tests" / "deploy" / "values").glob("*.yaml"))
OVERLAYS = sorted(path.parent for path in (ROOT / "deploy" / "kubernetes" / "overlays").glob("*/kustomization.yaml"))


def setUpModule():
    need("helm", "kubectl", "yamllint", "promtool", "nats-server")


def render(values=None, *more, name="release"):
    chosen = ["--values", values] if values else []
    return Manifests(run("helm", "template", name, CHART, "--namespace", "chat", *chosen, *more).stdout)


def refusal(*more):
    """What Helm says when it does not take the values."""
    done = run("helm", "template", "release", CHART, *more, check=False)
    assert done.returncode != 0, f"{more} was taken"
    # By the schema or in words, and not because a template stumbled.
    assert "meet the specifications of the schema" in done.stderr or "execution error at" in done.stderr, done.stderr
    return done.stderr


def upgrade(there, *more):
    """What Helm renders, or says, where this StatefulSet is there."""
    there = copy.deepcopy(there)
    there["metadata"].setdefault("annotations", {}).update({"meta.helm.sh/release-name": "release", "meta.helm.sh/release-namespace": "chat"})
    with Api(there) as api:
        return run("helm", "template", "release", CHART, "--namespace", "chat", "--dry-run=server", "--disable-openapi-validation", *more, check=False, env={"KUBECONFIG": api.kubeconfig})


class Chart(unittest.TestCase):
    def test_lint_over_all_values(self):
        self.assertGreaterEqual(len(VALUES), 12)
        for values in VALUES:
            run("helm", "lint", "--strict", "--quiet", CHART, "--values", values)

    def test_every_rendering_is_valid_and_keeps_our_rules(self):
        for values in VALUES:
            with self.subTest(values.stem):
                manifests = render(values)
                manifests.validate()
                check(manifests)

    def test_large_numbers_stay_numbers(self):
        config = render(ROOT / "tests/deploy/values/everything.yaml").one("ConfigMap", "release-tertulia")["data"]["tertulia.yaml"]
        self.assertIn("groups: 100000000", config)

    def test_time_to_stop_follows_the_drain(self):
        stems = {"defaults": 30, "drain": 100, "drain-given": 120}
        for stem, wanted in stems.items():
            _, spec = render(ROOT / f"tests/deploy/values/{stem}.yaml").server()
            self.assertEqual(spec["terminationGracePeriodSeconds"], wanted, stem)
        self.assertIn("must be more than config.drain.grace (20s)", refusal("--set", "terminationGracePeriodSeconds=20"))
        self.assertIn("config.drain.grace must be a time", refusal("--set", "config.drain.grace=soon"))

    def test_a_changed_configuration_makes_another_pod(self):
        def pods(*more):
            return [metadata["annotations"] for kind, metadata, _ in render(None, *more).pods() if kind == "StatefulSet"]

        self.assertEqual(pods(), pods("--set", "service.type=NodePort"))
        self.assertNotEqual(pods(), pods("--set", "config.limits.groups=7"))

    def test_another_chart_is_not_another_pod(self):
        with tempfile.TemporaryDirectory() as folder:
            copy = shutil.copytree(CHART, Path(folder) / "tertulia")
            description = (copy / "Chart.yaml").read_text()
            (copy / "Chart.yaml").write_text(description.replace("\nversion: 0.1.0\n", "\nversion: 0.1.1\n"))
            self.assertNotEqual((copy / "Chart.yaml").read_text(), description)
            before, after = (Manifests(run("helm", "template", "release", chart).stdout).one("StatefulSet") for chart in (CHART, copy))
        self.assertNotEqual(before["metadata"]["labels"], after["metadata"]["labels"])
        self.assertEqual(before["spec"], after["spec"])

    def test_labels_and_annotations_of_the_values(self):
        manifests = render(ROOT / "tests/deploy/values/same-labels.yaml")
        for item in manifests.objects:
            labels, annotations = item["metadata"]["labels"], item["metadata"]["annotations"]
            where = f"{item['kind']} {item['metadata']['name']}"
            self.assertEqual((labels["cost-centre"], annotations["example.com/owner"]), ("42", "chat"), where)
            # The more special of two wins, and what the chart needs for itself over both.
            self.assertEqual(labels["team"], "graphs" if "dashboard" in item["metadata"]["name"] else "chat")
            if item["kind"] == "Job":
                self.assertEqual(annotations["helm.sh/hook"], "pre-install,pre-upgrade")
        for kind, metadata, _ in manifests.pods():
            self.assertEqual((metadata["labels"]["team"], metadata["annotations"]["example.com/owner"]), ("chat", "chat"), kind)
        metadata, _ = manifests.server()
        self.assertEqual(metadata["annotations"]["prometheus.io/port"], "8090")
        self.assertEqual(len(metadata["annotations"]["checksum/config"]), 64)
        own = [("commonLabels", r"helm\.sh/chart")]
        for labels in ("commonLabels", "podLabels", "service.labels", "persistence.labels", "metrics.serviceMonitor.labels", "configCheck.podLabels", "tests.podLabels"):
            own += [(labels, rf"app\.kubernetes\.io/{name}") for name in ("name", "instance", "component", "part-of")]
        said = refusal("--set", ",".join(f"{labels}.{name}=own" for labels, name in own))
        for labels, name in own:
            self.assertIn("/" + labels.replace(".", "/") + "/" + name.replace("\\", "").replace("/", "~1"), said)

    def test_the_pods_beside_the_server(self):
        more = ["configCheck.activeDeadlineSeconds=900", "tests.activeDeadlineSeconds=30", "nodeSelector.disk=ssd"]
        for name in ("configCheck", "tests"):
            more += [f"{name}.podLabels.mesh=no", rf"{name}.podAnnotations.example\.com/inject=disabled"]
        manifests = render(ROOT / "tests/deploy/values/placement.yaml", "--set", ",".join(more))
        check(manifests)
        job, pod = manifests.one("Job")["spec"], manifests.one("Pod")
        self.assertEqual((job["activeDeadlineSeconds"], pod["spec"]["activeDeadlineSeconds"]), (900, 30))
        _, server = manifests.server()
        for spec in (job["template"]["spec"], pod["spec"]):
            self.assertEqual(spec["affinity"], {"nodeAffinity": server["affinity"]["nodeAffinity"]})
        for metadata in (job["template"]["metadata"], pod["metadata"]):
            self.assertEqual((metadata["labels"]["mesh"], metadata["annotations"]["example.com/inject"]), ("no", "disabled"))
        # How the server's pods are to be beside each other is not for them.
        apart = "affinity.podAntiAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].topologyKey=kubernetes.io/hostname"
        self.assertNotIn("affinity", render(None, "--set", apart).one("Job")["spec"]["template"]["spec"])
        self.assertEqual(render().one("Job")["spec"]["activeDeadlineSeconds"], 600)
        asked = [[one["name"] for one in render(None, "--set", f"config.chat.proxy_protocol={how}").one("Pod")["spec"]["containers"]]
                 for how in ("off", "required")]
        self.assertEqual(asked, [["ready", "chat"], ["ready"]])

    def test_wrong_values_are_refused_by_name(self):
        cases = [
            ("replcias=1", "'replcias'"),
            ("replicas=2", "/replicas"),
            ("replicas=many", "/replicas"),
            ("image.tga=1", "'tga'"),
            ("image.tag=5", "/image/tag"),
            ("image.pullPolicy=Sometimes", "/image/pullPolicy"),
            ("service.type=ExternalName", "/service/type"),
            ("service.ports.chat=0", "/service/ports/chat"),
            ("service.ports.caht=1", "'caht'"),
            ("persistence.size=ten", "/persistence/size"),
            ("persistence.size=10ki", "/persistence/size"),
            ("persistence.size=10K", "/persistence/size"),
            ("persistence.accessModes={Often}", "/persistence/accessModes"),
            ("metrics.serviceMonitor.enabled=perhaps", "/metrics/serviceMonitor/enabled"),
            ("metrics.serviceMonitor.intervall=1s", "'intervall'"),
            ("extraEnv[0].nmae=x", "/extraEnv/0"),
            ("livenessProbe.periodSecond=1", "'periodSecond'"),
            ("config.limits=5", "/config/limits"),
            ("tls.chta.existingSecret=a", "'chta'"),
            ("tls.http.existingSecret=A_B", "/tls/http/existingSecret"),
            ("auth.existingSecert=a", "'existingSecert'"),
            ("auth.guests=perhaps", "/auth/guests"),
            ("auth.keys=7", "/auth/keys"),
            ("metrics.prometheusRule.runbookUrl=docs", "/metrics/prometheusRule/runbookUrl"),
            ("config.log.engine=memory,replicas=3", "/replicas"),
            ("config.log.engine=memory,autoscaling.enabled=true", "/autoscaling/enabled"),
            ("config.log.engine=nats,config.nats.urls=nats://a,replicas=31", "/replicas"),
            ("autoscaling.enabled=true", "/autoscaling/enabled"),
            ("autoscaling.maxReplicas=31", "/autoscaling/maxReplicas"),
            ("autoscaling.cpu=half", "/autoscaling/cpu"),
            ("autoscaling.behavior.scaleSideways=1", "'scaleSideways'"),
        ]
        for assignment, named in cases:
            with self.subTest(assignment):
                self.assertIn(named, refusal("--set", assignment))

    def test_what_could_not_be_reached_is_refused(self):
        cases = [
            ("config.chat.address=127.0.0.1:8088", "config.chat.address is on loopback"),
            ("config.http.address=127.0.0.1:8090", "config.http.address is on loopback"),
            ("config.http.address=0.0.0.0:0", "config.http.address must be IP:PORT"),
            ("config.admin.address=0.0.0.0:8089", "set admin.existingSecret"),
            ("admin.existingSecret=a,config.admin.token_file=/b", "exclude each other"),
            ("tls.chat.existingSecret=a,config.chat.tls.cert_file=/b", "exclude each other"),
            ("auth.existingSecret=a,config.auth.keys_file=/b", "auth.existingSecret and config.auth.keys_file exclude each other"),
            ("auth.existingSecret=a,auth.issuer=b,config.auth.issuer=b", "auth.issuer and config.auth.issuer exclude each other"),
            ("config.log.engine=nats", "set config.nats.urls"),
            ("tls.admin.clientCASecret=a", "needs tls.admin.existingSecret"),
            # What the type of the service does not have.
            ("service.externalTrafficPolicy=Local", "service.externalTrafficPolicy is for those from outside"),
            ("service.nodePorts.chat=30088", "service.nodePorts.chat needs service.type NodePort or LoadBalancer"),
            ("service.loadBalancerSourceRanges={192.0.2.0/24}", "service.loadBalancerSourceRanges needs service.type LoadBalancer"),
            ("service.type=NodePort,service.loadBalancerClass=a", "service.loadBalancerClass needs service.type LoadBalancer"),
            # Files of the log that the volume has no room for.
            ("persistence.size=256Mi", "persistence.size (256Mi) is too small: config.log.reserve_bytes (256MiB) stay free, and 4 files"),
            ("persistence.size=639Mi", "and a quarter more for the file system and the tables; that is 640Mi"),
            ("persistence.size=1Gi,config.log.reserve_bytes=1GiB", "that is 1600Mi"),
            ("persistence.size=1Gi,config.log.spare_segments=0,config.log.segment_bytes=512 MiB", "and 2 files of config.log.segment_bytes (512 MiB)"),
            # What would win over the configuration that the chart goes by.
            ("extraEnv[0].name=TERTULIA__DRAIN__GRACE", "set config.drain.grace instead"),
            ("extraEnv[0].name=TERTULIA__DRAIN__DELAY", "set config.drain.delay instead"),
            ("extraEnv[0].name=TERTULIA__CHAT__ADDRESS", "set config.chat.address instead"),
            ("extraEnv[0].name=TERTULIA__HTTP__ADDRESS", "set config.http.address instead"),
            ("extraEnv[0].name=TERTULIA__HTTP__TLS__CERT_FILE", "set config.http.tls.cert_file instead"),
            ("extraEnv[0].name=TERTULIA__ADMIN__ADDRESS", "set config.admin.address instead"),
            ("extraEnv[0].name=TERTULIA__LOG__ENGINE", "set config.log.engine instead"),
            ("extraEnv[0].name=TERTULIA__LOG__DATA_DIR", "set config.log.data_dir instead"),
            ("extraEnv[0].name=TERTULIA__LOG__RESERVE_BYTES", "set config.log.reserve_bytes instead"),
            ("extraEnv[0].name=TERTULIA__LOG__SEGMENT_BYTES", "set config.log.segment_bytes instead"),
            ("extraEnv[0].name=TERTULIA__LOG__DISK_BYTES", "set config.log.disk_bytes instead"),
            ("extraEnv[0].name=TERTULIA__LOG__SPARE_SEGMENTS", "set config.log.spare_segments instead"),
            ("extraEnv[0].name=TERTULIA__CHAT__PROXY_PROTOCOL", "set config.chat.proxy_protocol instead"),
            ("extraEnv[0].name=TERTULIA__NATS__URLS", "set config.nats.urls instead"),
            ("extraEnv[0].name=TERTULIA__LIMITS__CONNECTIONS", "set config.limits.connections instead"),
            ("extraEnv[0].name=TERTULIA__TELEMETRY__TRACES__ENDPOINT", "set config.telemetry.traces.endpoint instead"),
            ("extraEnv[0].name=TERTULIA__ADMIN__TOKEN_FILE", "set config.admin.token_file instead"),
            ("extraEnv[0].name=TERTULIA__AUTH__KEYS_FILE", "set config.auth.keys_file instead"),
            ("extraEnv[0].name=TERTULIA__AUTH__USERS_FILE", "set config.auth.users_file instead"),
            ("extraArgs={--auth-keys-file,/a}", "set config.auth.keys_file instead"),
            ("extraArgs={--auth-users-file,/a}", "set config.auth.users_file instead"),
            ("extraArgs={--set,auth.guests=true}", "set config.auth.guests instead"),
            ("extraArgs={--set,telemetry.traces.enabled=true}", "set config.telemetry.traces.enabled instead"),
            ("extraArgs={--nats-url,nats://a}", "set config.nats.urls instead"),
            ("extraArgs={--nats-url=nats://a}", "set config.nats.urls instead"),
            ("extraArgs={--admin-insecure}", "set config.admin.insecure instead"),
            ("extraArgs={--admin-token-file,/a}", "set config.admin.token_file instead"),
            ("extraArgs={--set,limits.groups=1,--set,drain.grace=1m}", "extraArgs: 'drain.grace=1m' would win"),
            ("extraArgs={--set=http.address=0.0.0.0:1}", "set config.http.address instead"),
            ("extraArgs={--data-dir,/data}", "set config.log.data_dir instead"),
            ("extraArgs={--engine=memory}", "set config.log.engine instead"),
            ("fullnameOverride=a.b", "/fullnameOverride"),
            ("fullnameOverride=1a", "/fullnameOverride"),
        ]
        for assignment, said in cases:
            with self.subTest(assignment):
                self.assertIn(said, refusal("--set", assignment))

    def test_what_kubernetes_would_not_change_is_refused_before_the_configuration_changes(self):
        nats = "config.log.engine=nats,config.nats.urls=nats://nats"
        orphan = "kubectl --namespace chat delete statefulset release-tertulia --cascade=orphan"
        claim = render(ROOT / "tests/deploy/values/storage.yaml").one("StatefulSet")
        # As Kubernetes writes it, and as what stands behind Helm adds to it.
        (template,) = claim["spec"]["volumeClaimTemplates"]
        template["spec"]["resources"]["requests"]["storage"] = "102400Mi"
        template["spec"]["volumeMode"], template["status"] = "Filesystem", {"phase": "Pending"}
        template["metadata"]["labels"]["added"] = "later"
        same = ("--values", ROOT / "tests/deploy/values/storage.yaml")
        for more in ("config.limits.groups=7", "persistence.whenDeleted=Retain", "persistence.size=100Gi"):
            done = upgrade(claim, *same, "--set", more)
            self.assertEqual(done.returncode, 0, f"{more}: {done.stderr}")
        cases = [
            ("config.log.engine=memory", "are on the claim data-release-tertulia-0, and config.log.engine 'memory'"),
            (nats, "config.log.engine 'nats'"),
            ("persistence.enabled=false", "persistence.enabled 'false' has none"),
            ("persistence.size=101Gi", "persistence.size of an installed release change: edit the size of the claim data-release-tertulia-0, delete"),
            ("persistence.storageClass=,persistence.selector=null", "persistence.selector, persistence.storageClass of an installed release"),
            ("persistence.accessModes={ReadWriteOnce}", "persistence.accessModes of an installed release"),
            ("persistence.labels.backup=weekly,persistence.annotations.owner=me", "persistence.labels, persistence.annotations of an installed release"),
        ]
        for more, said in cases:
            with self.subTest(more):
                done = upgrade(claim, *same, "--set", more)
                self.assertIn("execution error at", done.stderr)
                self.assertIn(said, done.stderr)
                self.assertIn(orphan, done.stderr)
        # No class, and the default class.
        self.assertIn("persistence.storageClass of", upgrade(render(ROOT / "tests/deploy/values/static-volume.yaml").one("StatefulSet")).stderr)
        none = render(None, "--set", "persistence.enabled=false").one("StatefulSet")
        self.assertIn("this release has no claim", upgrade(none).stderr)
        self.assertEqual(upgrade(none, "--set", nats).returncode, 0)
        # Another release, which is not there yet.
        none["metadata"]["name"] = "other"
        self.assertEqual(upgrade(none).returncode, 0)

    def test_the_memory_has_room_for_what_the_configuration_allows(self):
        config = json.loads(run(server_binary(), "print-config", "--format", "json").stdout)
        limits, log = config["limits"], config["log"]
        # docs/tls.md and docs/benchmarks.md have what a connection takes, within TLS and in the kernel.
        needed = limits["connections"] * (11 + 4) * 1024 + limits["all_posts_in_flight_bytes"] + sum(log[name] for name in ("table_cache_bytes", "unapplied_bytes", "cache_bytes"))
        for manifests in (render(), Manifests(run("kubectl", "kustomize", "deploy/kubernetes/overlays/single").stdout)):
            (container,) = manifests.server()[1]["containers"]
            self.assertGreater(quantity(container["resources"]["limits"]["memory"]), needed + 2000 * limits["outbound_bytes"])

    def test_an_autoscaler_has_the_number_of_pods_to_itself(self):
        on = ("--values", ROOT / "tests/deploy/values/cluster-autoscaled.yaml")

        def after(there, *more):
            done = upgrade(there, *on, *more)
            self.assertEqual(done.returncode, 0, done.stderr)
            made = Manifests(done.stdout).one("StatefulSet")
            return made["spec"].get("replicas"), made["metadata"].get("annotations", {}).get("tertulia/replicas")

        # From the start on: a revision that is gone back to names no number either.
        first = render(on[1]).one("StatefulSet")
        self.assertNotIn("replicas", first["spec"])
        first["spec"]["replicas"] = 7
        self.assertEqual(after(first), (None, "autoscaler"))
        self.assertEqual(after(first, "--set", "replicas=0"), (0, None))
        # Turned on later: what the revision before named must not be left out.
        fixed = render(ROOT / "tests/deploy/values/cluster.yaml").one("StatefulSet")
        fixed["spec"]["replicas"] = 5
        self.assertEqual(after(fixed), (5, None))
        # Parked, and back.
        fixed["spec"]["replicas"] = 0
        self.assertEqual(after(fixed), (None, "autoscaler"))

    def test_what_is_near_to_what_is_refused_is_taken(self):
        for assignment in (
            "persistence.size=640Mi",
            "persistence.size=800Mi,config.log.reserve_bytes=384MiB",
            "persistence.size=160Mi,config.log.reserve_bytes=0,config.log.spare_segments=0",
            "persistence.size=1Mi,config.log.engine=memory",
            "service.type=LoadBalancer,service.nodePorts.chat=30088,service.externalTrafficPolicy=Local",
            "persistence.size=10485760Ki",
            "extraEnv[0].name=TERTULIA__LOG__MEMORY_BYTES,extraArgs={--set,limits.groups=1}",
            "extraEnv[0].name=TERTULIA__TELEMETRY__TRACES__RATIO,extraArgs={--node-id,limits.connections}",
            "extraEnv[0].name=TERTULIA__LIMITS__CONNECTIONS_PER_ADDRESS",
            "extraArgs={--log-level,drain.grace=debug}",
        ):
            self.assertTrue(render(None, "--set", assignment).objects, assignment)

    def test_a_release_with_dots_in_its_name(self):
        manifests = render(name="chat.example.org")
        manifests.validate()
        check(manifests)
        self.assertEqual(manifests.one("StatefulSet")["metadata"]["name"], "chat-example-org-tertulia")
        for service in manifests.of("Service"):
            self.assertRegex(service["metadata"]["name"], "^[a-z][-a-z0-9]*$")
        done = run("helm", "template", "2chat", CHART, check=False)
        self.assertIn("must begin with a letter: set fullnameOverride", done.stderr)

    def test_what_is_left_empty_is_taken_or_refused_by_name(self):
        schema = json.loads((CHART / "values.schema.json").read_text())
        needed, parts, free = [], [], []

        def walk(value, node, path):
            for key, inner in value.items():
                here, below = (*path, key), node["properties"][key]
                is_part = isinstance(inner, dict) and below.get("additionalProperties") is False
                (needed if key in node.get("required", []) and not is_part else parts if is_part else free).append(here)
                if is_part:
                    walk(inner, below, here)

        walk(yaml.safe_load((CHART / "values.yaml").read_text()), schema, ())
        said = refusal("--set", ",".join(f"{'.'.join(path)}=null" for path in needed))
        for *above, key in needed:
            self.assertRegex(said, rf"at '{''.join('/' + each for each in above)}': missing propert(y|ies) .*'{key}'")
        # What may be left out may be left out all at once, with everything on.
        on = "metrics.serviceMonitor.enabled=true,metrics.prometheusRule.enabled=true,metrics.dashboards.enabled=true"
        nothing = ",".join(f"{'.'.join(path)}=null" for path in free if path[-1] != "enabled")
        for engine in ("config.log.engine=embedded", "config.log.engine=nats,config.nats.urls=nats://nats", "config.log.engine=embedded,persistence.enabled=false"):
            render(None, "--set", nothing, "--set", f"{on},{engine}").validate()
        for path in parts:
            with self.subTest(".".join(path)):
                done = run("helm", "template", "release", CHART, "--set", f"{'.'.join(path)}=null", check=False)
                self.assertTrue(done.returncode == 0 or f"'{path[-1]}'" in done.stderr and "missing propert" in done.stderr, done.stderr)

    def test_parts_of_the_configuration_that_are_left_empty(self):
        sections = json.loads(run(server_binary(), "print-config", "--format", "json").stdout)
        given = yaml.safe_load((CHART / "values.yaml").read_text())["config"]
        # But for `nats`, whose servers are named below: --set takes no key of what is null.
        whole = {name: None for name in sections if name not in given and name != "nats"}
        keys = {name: {key: None for key in section if key not in given.get(name, {})} for name, section in sections.items()}
        self.assertIn("limits", whole)
        self.assertIn("tls", keys["chat"])
        nats = "config.log.engine=nats,config.nats.urls=nats://nats,autoscaling.enabled=true,autoscaling.connections=7,admin.existingSecret=a,tls.http.existingSecret=b"
        for engine in ("persistence.enabled=true", "persistence.enabled=false", nats):
            plain = render(None, "--set", engine).config()
            for empty in (whole, keys):
                with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
                    yaml.safe_dump({"config": empty}, file)
                    file.flush()
                    manifests = render(file.name, "--set", engine)
                check(manifests)
                self.assertEqual(manifests.config(), plain)
        self.assertIn("config.log.data_dir is where", refusal("--set", "config.log=null"))
        self.assertIn("'address'", refusal("--set", "config.chat.address=null"))

    def test_probes_as_they_are_given(self):
        def probe(*more, name="livenessProbe"):
            (container,) = render(None, "--set", ",".join(("livenessProbe.failureThreshold=9", *more))).server()[1]["containers"]
            return container.get(name)

        usual = {"periodSeconds": 10, "timeoutSeconds": 3, "failureThreshold": 9}
        self.assertEqual(probe(), {**usual, "httpGet": {"path": "/livez", "port": "http"}})
        for handler, value in (("tcpSocket.port=chat", {"tcpSocket": {"port": "chat"}}), ("exec.command={pidof}", {"exec": {"command": ["pidof"]}}), ("grpc.port=8089", {"grpc": {"port": 8089}})):
            self.assertEqual(probe(f"livenessProbe.{handler}"), {**usual, **value})
        for name in ("startupProbe", "livenessProbe", "readinessProbe"):
            self.assertIsNone(probe(f"{name}=null", name=name))
            self.assertIn(f"{name} asks nothing", refusal("--set", f"{name}.httpGet=null"))
        # By TLS where that port has it, and nowhere else.
        secure = "tls.http.existingSecret=a"
        self.assertEqual(probe(secure)["httpGet"]["scheme"], "HTTPS")
        self.assertEqual(probe(secure, "livenessProbe.httpGet.port=8090")["httpGet"]["scheme"], "HTTPS")
        self.assertNotIn("scheme", probe(secure, "livenessProbe.httpGet.port=9000")["httpGet"])

    def test_what_would_be_no_cluster_is_refused(self):
        cases = [
            ("config.cluster.node_id=a", "would be the same in every pod"),
            ("config.drain.grace=12s", "config.drain.grace (12s) must be at least 15s"),
            ("config.cluster.handover=5s", "config.drain.grace (20s) must be at least 24s"),
            ("config.cluster.handover=soon", "config.cluster.handover must be a time"),
            ("autoscaling.enabled=true,autoscaling.minReplicas=11", "must not be more than autoscaling.maxReplicas (10)"),
            ("autoscaling.enabled=true,autoscaling.cpu=null", "has nothing to go by"),
            ("autoscaling.enabled=true,autoscaling.connections=65536", "must be less than config.limits.connections (65536)"),
        ]
        nats = ["--set", "config.log.engine=nats,config.nats.urls=nats://nats", "--set"]
        for assignment, said in cases:
            with self.subTest(assignment):
                self.assertIn(said, refusal(*nats, assignment))
        for taken in ("config.drain.grace=15s", "replicas=30", "autoscaling.enabled=true,replicas=0"):
            self.assertTrue(render(None, *nats, taken).objects, taken)

    def test_nodes_of_a_cluster(self):
        cluster = render(ROOT / "tests/deploy/values/cluster.yaml")
        self.assertEqual(cluster.one("StatefulSet")["spec"]["replicas"], 3)
        self.assertEqual(cluster.config()["drain"], {"delay": "3s"})
        self.assertEqual(cluster.of("HorizontalPodAutoscaler"), [])
        keys = [each["topologyKey"] for each in cluster.server()[1]["topologySpreadConstraints"]]
        self.assertEqual(keys, ["kubernetes.io/hostname", "topology.kubernetes.io/zone"])
        (rule, _) = cluster.one("NetworkPolicy")["spec"]["egress"]
        self.assertEqual(rule["to"], [{"podSelector": {"matchLabels": {"app.kubernetes.io/name": "nats"}}}])
        # What was said stays as it was said.
        scaled = render(ROOT / "tests/deploy/values/cluster-autoscaled.yaml")
        self.assertEqual(scaled.config()["drain"], {"delay": "10s", "grace": "45s"})
        nats = "config.log.engine=nats,config.nats.urls=nats://nats"
        for none in ("0", "0s", "0ms"):
            self.assertEqual(str(render(None, "--set", f"{nats},config.drain.delay={none}").config()["drain"]["delay"]), none)
        self.assertIn("drain.delay (0s)", refusal("--set", f"{nats},config.drain.delay=0,config.drain.grace=1s"))
        metrics = scaled.one("HorizontalPodAutoscaler")["spec"]["metrics"]
        self.assertEqual([metric["type"] for metric in metrics], ["ContainerResource", "Pods"])
        own = [each for each in render(ROOT / "tests/deploy/values/cluster-credentials.yaml").server()[1]["containers"][0]["env"] if "NODE_ID" in each["name"]]
        self.assertEqual(own, [{"name": "TERTULIA__CLUSTER__NODE_ID", "value": "eu-$(POD_NAME)"}])
        # The file is checked before there are pods, and nothing of a cluster is in what is none.
        self.assertNotIn("NODE_ID", yaml.safe_dump(cluster.one("Job")))
        self.assertNotIn("NODE_ID", render().text)

    def test_pods_on_nats_are_not_evicted_all_at_once(self):
        def policy(*more):
            return render(None, *more).one("PodDisruptionBudget")["spec"]["unhealthyPodEvictionPolicy"]

        nats = ("--set", "config.log.engine=nats,config.nats.urls=nats://nats")
        self.assertEqual(policy(), "AlwaysAllow")
        wanted = {"replicas=1": "AlwaysAllow", "replicas=2": "IfHealthyBudget", "autoscaling.enabled=true": "IfHealthyBudget", "autoscaling.enabled=true,autoscaling.minReplicas=1": "AlwaysAllow"}
        self.assertEqual({pods: policy(*nats, "--set", pods) for pods in wanted}, wanted)
        self.assertEqual(policy(*nats, "--set", "replicas=2,podDisruptionBudget.unhealthyPodEvictionPolicy=AlwaysAllow"), "AlwaysAllow")
        self.assertIn("/podDisruptionBudget/unhealthyPodEvictionPolicy", refusal("--set", "podDisruptionBudget.unhealthyPodEvictionPolicy=Never"))

    def test_an_empty_dir_is_never_outgrown(self):
        def bound(*more):
            return render(None, "--set", "persistence.enabled=false", *more).config()["log"].get("disk_bytes")

        sizes = {"10Gi": 8 * 2**30, "1.5Gi": 1288490188, "500M": 400_000_000, "20Ti": 16 * 2**40, "1000000000": 800_000_000}
        for size, wanted in sizes.items():
            self.assertEqual(bound("--set-string", f"persistence.size={size}"), wanted, size)
        # The files of the commit log are smaller where four of them would take more than half.
        def files(size, *more):
            return render(None, "--set-string", f"persistence.size={size}", "--set", ",".join(("persistence.enabled=false", *more))).config()["log"].get("segment_bytes")

        wanted = {"10Gi": None, "640Mi": None, "639Mi": 63 * 2**20, "200Mi": 20 * 2**20, "10Mi": 2**20}
        self.assertEqual({size: files(size) for size in wanted}, wanted)
        self.assertEqual(files("640Mi", "config.log.spare_segments=7"), 28 * 2**20)
        self.assertEqual(files("250Mi", "config.log.spare_segments=0"), 50 * 2**20)
        self.assertEqual(files("200Mi", "config.log.segment_bytes=2MiB"), "2MiB")
        self.assertIn("persistence.size (9Mi) is too small", refusal("--set", "persistence.enabled=false", "--set-string", "persistence.size=9Mi"))
        # What was said stays as it was said, and a volume of its own has its own end.
        for said in (0, 7):
            self.assertEqual(bound("--set", f"config.log.disk_bytes={said}"), said)
        self.assertIsNone(bound("--set", "config.log.engine=memory"))
        self.assertNotIn("disk_bytes", render().text)

    def test_traces_get_to_their_collector_and_no_further(self):
        def egress(*more):
            return render(None, *more).one("NetworkPolicy", "release-tertulia")["spec"]["egress"]

        collector, dns = egress("--values", "tests/deploy/values/traces.yaml")
        self.assertEqual((collector["ports"][0]["port"], len(collector["to"])), (4317, 1))
        self.assertEqual({(port["port"], port["protocol"]) for port in dns["ports"]}, {(port, protocol) for port in (53, 5353) for protocol in ("UDP", "TCP")})
        outside = "config.telemetry.traces.endpoint=https://collector.example:4320/"
        (collector, _) = egress("--set", f"config.telemetry.traces.enabled=true,{outside}")
        self.assertEqual(collector, {"ports": [{"port": 4320, "protocol": "TCP"}]})
        # Not enabled, or within the pod.
        self.assertEqual(egress("--set", outside), [])
        for inside in ("http://localhost:4317", "http://127.0.0.1:4317", "http://[::1]:4317/", ""):
            self.assertEqual(egress("--set", f"config.telemetry.traces.enabled=true,config.telemetry.traces.endpoint={inside}"), [], inside)
        # Beside NATS, the DNS is opened once.
        nats = "config.log.engine=nats,config.nats.urls=nats://nats"
        opened = [port["port"] for rule in egress("--set", f"{nats},config.telemetry.traces.enabled=true,{outside}") for port in rule["ports"]]
        self.assertEqual(opened, [4222, 4320, 53, 53, 5353, 5353])
        opened = [port["port"] for rule in egress("--set", f"{nats},networkPolicy.dnsPorts={{1053}}") for port in rule["ports"]]
        self.assertEqual(opened, [4222, 1053, 1053])

    def test_every_key_of_the_values_is_in_the_schema(self):
        schema = json.loads((CHART / "values.schema.json").read_text())
        values = yaml.safe_load((CHART / "values.yaml").read_text())

        def compare(value, node, path):
            self.assertFalse(node.get("additionalProperties", False) is not False and path == "", path)
            for key, inner in value.items():
                self.assertIn(key, node["properties"], f"{path}{key}")
                below = node["properties"][key]
                if below.get("additionalProperties") is False and isinstance(inner, dict):
                    compare(inner, below, f"{path}{key}.")

        compare(values, schema, "")
        self.assertEqual(set(schema["properties"]) - set(values), {"global"})

    def test_the_readme_is_what_the_values_say(self):
        run(ROOT / "helm" / "readme", "--check")

    def test_rules_and_dashboards_are_copies(self):
        run("make", "chart-files-check")

    def test_monitoring(self):
        manifests = render(ROOT / "tests/deploy/values/monitoring.yaml")
        rule = manifests.one("PrometheusRule")
        sources = sorted((ROOT / "deploy/prometheus/rules").glob("*.yml"))
        groups = [group for source in sources for group in yaml.safe_load(source.read_text())["groups"]]
        # But for the one that is of this release.
        absent = {alert["alert"]: alert for group in groups for alert in group["rules"] if "alert" in alert}["TertuliaAbsent"]
        absent["expr"] = 'absent(up{namespace="chat", pod=~"release-tertulia-[0-9]+", job=~".*tertulia.*"})'
        absent["labels"]["service"] = "release-tertulia-ops"
        absent["annotations"].update(self.said_of_absence("release-tertulia"))
        self.assertEqual(rule["spec"]["groups"][:-1], groups)
        self.assertEqual(rule["spec"]["groups"][-1]["rules"][0]["annotations"]["summary"], "{{ $labels.pod }} is silent")
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "rules.yml"
            file.write_text(yaml.safe_dump(rule["spec"]))
            run("promtool", "check", "rules", file)
        labelled = [each for each in manifests.of("ConfigMap") if "grafana_dashboard" in each["metadata"]["labels"]]
        rendered = {name: json.loads(text) for each in labelled for name, text in each["data"].items()}
        self.assertEqual(rendered, {path.name: json.loads(path.read_text()) for path in (ROOT / "deploy/grafana/dashboards").glob("*.json")})
        for each in labelled:
            self.assertLess(len(json.dumps(each)), 1_000_000)

    def said_of_absence(self, name):
        return {
            "summary": f"Prometheus knows of no pod of {name} in chat.",
            "description": "There has been no target of this release for 5 minutes. All of its pods are gone, or they are no longer discovered and no other alert of them can fire.",
        }

    def test_a_further_release_brings_the_alert_of_its_absence_and_no_other_rule_again(self):
        def rules(*more):
            spec = render(None, "--set", "metrics.prometheusRule.enabled=true,metrics.prometheusRule.shared=false", *more).one("PrometheusRule")["spec"]
            return [rule.get("alert") for group in spec["groups"] for rule in group["rules"]]

        self.assertEqual(rules(), ["TertuliaAbsent"])
        # One that is parked is not missed.
        self.assertEqual(rules("--set", "replicas=0"), [])
        own = ("--set", "metrics.prometheusRule.extraGroups[0].name=own,metrics.prometheusRule.extraGroups[0].rules[0].alert=Own")
        self.assertEqual(rules(*own), ["TertuliaAbsent", "Own"])

    def test_a_release_that_is_gone_is_noticed_while_another_one_is_there(self):
        on = ("--set", "metrics.prometheusRule.enabled=true")
        prod = render(None, *on, name="prod").one("PrometheusRule")
        staging = render(None, *on, "--set", "metrics.prometheusRule.shared=false", name="staging").one("PrometheusRule")

        def up(pod, values):
            return {"series": f'up{{job="tertulia", namespace="chat", pod="{pod}", service="{pod.rpartition("-")[0]}-ops"}}', "values": values}

        fired = {
            "exp_labels": {"severity": "critical", "namespace": "chat", "service": "prod-tertulia-ops"},
            "exp_annotations": {**self.said_of_absence("prod-tertulia"), "runbook_url": "docs/runbooks/TertuliaAbsent.md"},
        }
        case = {
            "interval": "1m",
            # A pod of another release whose name begins as this one's does not stand for it.
            "input_series": [up("prod-tertulia-0", "1x10 _x20"), up("staging-tertulia-0", "1x30"), up("prod-tertulia-eu-0", "1x30")],
            "alert_rule_test": [
                {"eval_time": "10m", "alertname": "TertuliaAbsent", "exp_alerts": []},
                {"eval_time": "25m", "alertname": "TertuliaAbsent", "exp_alerts": [fired]},
            ],
        }
        with tempfile.TemporaryDirectory() as folder:
            for name, rule in (("prod", prod), ("staging", staging)):
                (Path(folder) / f"{name}.yml").write_text(yaml.safe_dump(rule["spec"]))
            test = {"rule_files": ["prod.yml", "staging.yml"], "evaluation_interval": "1m", "tests": [case]}
            (Path(folder) / "test.yml").write_text(yaml.safe_dump(test))
            run("promtool", "test", "rules", Path(folder) / "test.yml")

    def test_tls(self):
        manifests = render(ROOT / "tests/deploy/values/tls.yaml")
        config = manifests.config()
        for port in ("chat", "admin", "http"):
            self.assertEqual(config[port]["tls"], {"cert_file": f"/etc/tertulia-tls/{port}/tls.crt", "key_file": f"/etc/tertulia-tls/{port}/tls.key"})
        self.assertEqual(config["admin"]["client_ca_file"], "/etc/tertulia-tls/admin-clients/ca.crt")
        (endpoint,) = manifests.one("ServiceMonitor")["spec"]["endpoints"]
        self.assertEqual((endpoint["scheme"], endpoint["tlsConfig"]["serverName"]), ("https", "chat.example"))
        alerts = [rule for group in manifests.one("PrometheusRule")["spec"]["groups"] for rule in group["rules"] if "alert" in rule]
        for alert in alerts:
            self.assertEqual(alert["annotations"]["runbook_url"], f"https://git.example/tertulia/blob/main/docs/runbooks/{alert['alert']}.md")
        ready, chat = manifests.one("Pod")["spec"]["containers"]
        self.assertIn("https://release-tertulia-ops:8090/readyz", ready["args"])
        self.assertEqual(chat["args"][-5:], ["--tls", "--tls-name", "chat.example", "--ca", "/secrets/chat-tls/ca.crt"])
        # Without the key the test says so, where the pod would not start.
        (trust,) = manifests.one("Pod")["spec"]["volumes"]
        self.assertEqual(trust["secret"], {"secretName": "chat-tls", "optional": True, "items": [{"key": "ca.crt", "path": "ca.crt"}]})
        self.assertEqual(chat["volumeMounts"], [{"name": "trust", "mountPath": "/secrets/chat-tls", "readOnly": True}])
        # An authority that everybody trusts needs no file, and the name is that of the service unless another is given.
        _, chat = render(ROOT / "tests/deploy/values/tls-chat.yaml").one("Pod")["spec"]["containers"]
        self.assertEqual(chat["args"][-3:], ["--tls", "--tls-name", "chat.example"])
        _, chat = render(None, "--set", "tls.chat.existingSecret=a").one("Pod")["spec"]["containers"]
        self.assertIn("release-tertulia.chat.svc", chat["args"])

    def test_clients_prove_who_they_are(self):
        self.assertNotIn("auth", render().config())
        manifests = render(ROOT / "tests/deploy/values/auth-secret.yaml")
        self.assertEqual(manifests.config()["auth"], {
            "keys_file": "/etc/tertulia-auth/keys", "issuer": "https://id.example.com", "audience": "chat", "guests": True, "guest_read": "News*, Lobby", "guest_post": "",
        })
        (volume,) = [volume for volume in manifests.server()[1]["volumes"] if volume["name"] == "auth-keys"]
        self.assertEqual(volume["secret"], {"secretName": "chat-keys", "defaultMode": 0o440, "items": [{"key": "jwks", "path": "keys"}]})
        # The client of `helm test` has no token.
        self.assertEqual([one["name"] for one in manifests.one("Pod")["spec"]["containers"]], ["ready"])
        said = render(None, "--set", "auth.existingSecret=a,auth.guestRead=null,auth.guests=true").config()["auth"]
        self.assertEqual(said, {"keys_file": "/etc/tertulia-auth/keys", "guests": True, "guest_read": "", "guest_post": "*"})
        # Files that the chart knows nothing of, such as from a CSI driver.
        said = render(None, "--set", "config.auth.keys_file=/keys/jwks,auth.issuer=a").config()["auth"]
        self.assertEqual(said, {"keys_file": "/keys/jwks", "issuer": "a"})
        self.assertIn("auth.guests needs keys or passwords, without which clients are taken at their word: set auth.existingSecret", refusal("--set", "auth.guests=true"))
        for name in ("issuer", "audience"):
            for more in ("", ",config.auth.users_file=/users"):
                self.assertIn(f"auth.{name} needs keys, without which nobody shows a token: set auth.existingSecret", refusal("--set", f"auth.{name}=a{more}"))

    def test_clients_have_passwords(self):
        values = ROOT / "tests/deploy/values/auth-users.yaml"
        # What the page of the chart tells to do.
        page = (CHART / "README.md").read_text()
        self.assertIn(f"```yaml\n{values.read_text()}```\n", page)
        manifests = render(values, "--set", "auth.guests=true")
        said = manifests.config()["auth"]
        self.assertEqual((said["users_file"], said["guests"]), ("/etc/tertulia-users/users", True))
        (volume,) = [volume["secret"] for volume in manifests.server()[1]["volumes"] if volume["name"] == "users"]
        self.assertIn(f"kubectl create secret generic {volume['secretName']} --namespace chat --from-file=users\n", page)
        # The client of `helm test` has no password.
        self.assertEqual([one["name"] for one in manifests.one("Pod")["spec"]["containers"]], ["ready"])

    def test_public_keys_in_the_values(self):
        need("openssl")
        values = ROOT / "tests/deploy/values/auth-keys.yaml"
        given = yaml.safe_load(values.read_text())["auth"]["keys"]
        with tempfile.TemporaryDirectory() as folder:
            private, public, file = (Path(folder) / name for name in ("private.pem", "public.pem", "keys"))
            run("openssl", "genpkey", "-algorithm", "ed25519", "-out", private)
            run("openssl", "pkey", "-in", private, "-pubout", "-out", public)
            written = Path(folder) / "jwks.json"
            written.write_text(json.dumps(given))
            ways = [render(values), *(render(None, "--set-file", f"auth.keys={path}") for path in (written, public))]
            for manifests in ways:
                check(manifests)
                file.write_text(manifests.one("ConfigMap", "release-tertulia-auth")["data"]["keys"])
                run(server_binary(), "check-config", "--files", "--set", "log.engine=memory", "--set", f"auth.keys_file={file}")
            # They are taken up without a restart.
            self.assertEqual(*(each.one("StatefulSet")["spec"] for each in ways[1:]))
            self.assertIn("auth.keys is for public keys", refusal("--set-file", f"auth.keys={private}"))
            for name in ("d", "k"):
                written.write_text(json.dumps({"keys": [{**given["keys"][0], name: "c2VjcmV0"}]}))
                self.assertIn("auth.keys is for public keys", refusal("--set-file", f"auth.keys={written}"))
                self.assertIn("auth.keys is for public keys", refusal("--values", values, "--set", f"auth.keys.keys[0].{name}=c2VjcmV0"))
        # Among them a file that could not be fetched, without which everybody would be let in.
        for none in ("auth.keys=jwks.json", "auth.keys=", "auth.keys= \n\n", "auth.keys.keys=null"):
            self.assertIn("auth.keys has no key", refusal("--set", none), none)
        self.assertIn("auth.keys has no key", refusal("--set-file", "auth.keys=/dev/null"))
        self.assertIn("auth.keys has no key", refusal("--set-json", "auth.keys={}"))
        self.assertNotIn("auth", render(None, "--set", "auth.keys=null").config())
        self.assertIn("auth.existingSecret and auth.keys exclude each other", refusal("--values", values, "--set", "auth.existingSecret=a"))
        self.assertIn("auth.keys and config.auth.keys_file exclude each other", refusal("--values", values, "--set", "config.auth.keys_file=/b"))

    def test_a_certificate_of_cert_manager(self):
        manifests = render(ROOT / "tests/deploy/values/certificate.yaml")
        spec = manifests.one("Certificate", "release-tertulia-chat")["spec"]
        self.assertEqual(spec, {"secretName": "chat-tls", "issuerRef": {"kind": "ClusterIssuer", "name": "letsencrypt"}, "dnsNames": ["chat.example"]})
        (volume,) = [volume for volume in manifests.server()[1]["volumes"] if "secret" in volume]
        self.assertEqual(volume["secret"]["secretName"], spec["secretName"])
        on = "tls.chat.certificate.enabled=true,tls.chat.certificate.issuerRef.name=a"
        self.assertEqual(render(None, "--set", f"{on},tls.chat.existingSecret=b").one("Certificate")["spec"]["dnsNames"], ["release-tertulia.chat.svc"])
        self.assertIn("set tls.chat.existingSecret", refusal("--set", on))
        self.assertIn("issuerRef.name", refusal("--set", "tls.chat.certificate.enabled=true,tls.chat.existingSecret=b"))

    def test_how_pods_are_replaced(self):
        def spec(*more):
            return render(None, *more).one("StatefulSet")["spec"]

        self.assertEqual(spec()["updateStrategy"], {"type": "RollingUpdate"})
        self.assertEqual(spec("--set", "updateStrategy.type=OnDelete")["updateStrategy"], {"type": "OnDelete"})
        self.assertEqual(spec("--set", "updateStrategy.rollingUpdate.partition=2")["updateStrategy"]["rollingUpdate"], {"partition": 2})
        nats = "config.log.engine=nats,config.nats.urls=nats://nats"
        seconds = [spec("--set", each).get("minReadySeconds") for each in ("replicas=1", "minReadySeconds=7", nats, f"{nats},minReadySeconds=0")]
        self.assertEqual(seconds, [None, 7, 5, 0])

    def test_names_that_look_like_numbers(self):
        names = ["admin.existingSecret", "auth.existingSecret", "auth.key", "nats.existingSecret", "serviceAccount.name", "priorityClassName", "runtimeClassName", "service.loadBalancerClass", "tls.admin.clientCASecret"]
        names += [f"tls.{port}.existingSecret" for port in ("chat", "admin", "http")] + [f"tls.{port}.{key}" for port in ("chat", "admin", "http") for key in ("certKey", "keyKey")]
        names += ["tls.admin.clientCAKey", "tls.chat.caKey", "admin.existingSecretKey", "persistence.storageClass"]
        on = "service.type=LoadBalancer,metrics.serviceMonitor.enabled=true,metrics.prometheusRule.enabled=true,metrics.dashboards.enabled=true,autoscaling.enabled=true,tls.chat.certificate.enabled=true,tls.chat.certificate.issuerRef.name=a"
        for more in ("autoscaling.enabled=false", "config.log.engine=nats,config.nats.urls=nats://nats", "autoscaling.enabled=false,persistence.enabled=false"):
            done = run("helm", "template", "2024", CHART, "--namespace", "2024", "--set", f"{on},{more},fullnameOverride=on", "--set-string", ",".join(f"{name}=7" for name in names) + ",persistence.size=1000000000")
            manifests = Manifests(done.stdout)
            manifests.validate()
            for item in manifests.objects:
                self.assertEqual(item["metadata"]["namespace"], "2024")
            self.assertEqual(manifests.one("ServiceMonitor")["spec"]["namespaceSelector"]["matchNames"], ["2024"])
            self.assertEqual(manifests.one("Certificate")["spec"]["secretName"], "7")

    def test_a_scrape_takes_no_longer_than_the_time_between_two(self):
        def endpoint(*more):
            return render(None, "--set", ",".join(("metrics.serviceMonitor.enabled=true", *more))).one("ServiceMonitor")["spec"]["endpoints"][0]

        # Prometheus shortens its own time-out where that is longer, and refuses one that is given.
        self.assertEqual(endpoint("metrics.serviceMonitor.interval=5s"), {"port": "http", "path": "/metrics", "interval": "5s"})
        self.assertEqual(endpoint("metrics.serviceMonitor.scrapeTimeout=3s")["scrapeTimeout"], "3s")

    def test_addresses_and_names(self):
        manifests = render(ROOT / "tests/deploy/values/both-families.yaml")
        for service in manifests.of("Service"):
            self.assertEqual((service["spec"]["ipFamilyPolicy"], service["spec"]["ipFamilies"]), ("PreferDualStack", ["IPv6", "IPv4"]))
        _, spec = manifests.server()
        self.assertEqual(spec["hostAliases"][0]["ip"], "192.0.2.7")
        self.assertEqual(spec["dnsConfig"]["options"], [{"name": "ndots", "value": "1"}])
        self.assertIn("/service/ipFamilies", refusal("--set", "service.ipFamilies={IPv5}"))

    def test_notes_tell_how_to_connect(self):
        for values, wanted in (("defaults", "data-release-tertulia-0"), ("defaults", "NOTE: clients are taken at their word"),
                               ("node-port", "WARNING: clients are taken at their word, and the service leads there from outside"),
                               ("auth-secret", "who shows none is a guest."), ("auth-keys", "who shows none is not let in."), ("auth-keys", "--token-file YOURS.token"),
                               ("auth-users", "Clients show a password (docs/authentication.md); who shows none is not let in."), ("auth-users", "--user YOU --password-file YOURS.password"), ("memory", "do not outlive the pod"), ("admin-insecure", "WARNING"), ("tls", "--tls-name chat.example"), ("nats", "nats://nats.nats.svc:4222"), ("cluster", "It has 3 pods, which are one server"), ("cluster-autoscaled", "get horizontalpodautoscaler release-tertulia")):
            said = run(
                "helm", "install", "release", CHART, "--dry-run=client", "--namespace", "chat", "--values", f"tests/deploy/values/{values}.yaml",
                env={"KUBECONFIG": "/dev/null"},
            ).stdout
            notes = said.split("NOTES:")[1]
            self.assertIn(wanted, notes)
            self.assertIn("release-tertulia.chat:8088", notes)
            self.assertIn("port-forward release-tertulia-0 8089:", notes)
            # Whoever has to show a certificate has none in the pod.
            self.assertEqual("exec release-tertulia-0 -- tertulia-server admin ListGroups\n" in notes, values != "tls")
            self.assertEqual("taken at their word" in notes, not values.startswith("auth-"))

    def test_packages(self):
        with tempfile.TemporaryDirectory() as folder:
            run("helm", "package", CHART, "--destination", folder)
            self.assertEqual([path.name for path in Path(folder).iterdir()], ["tertulia-0.1.0.tgz"])

    def test_versions_agree(self):
        chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
        version = chart["appVersion"]
        self.assertIn(f'version = "{version}"', (ROOT / "Cargo.toml").read_text())
        self.assertIn(f"ARG VERSION={version}\n", (ROOT / "deploy/docker/Dockerfile").read_text())
        self.assertIn(f'newTag: "{version}"', (ROOT / "deploy/kubernetes/base/kustomization.yaml").read_text())
        for name in ("compose.yaml", "compose.cluster.yaml"):
            self.assertIn(f"image: tertulia:{version}\n", (ROOT / "deploy" / name).read_text())


class Recovery(unittest.TestCase):
    """docs/operations.md, on Kubernetes."""

    def setUp(self):
        need("jq")
        self.page = (ROOT / "docs/operations.md").read_text().partition("\n## On Kubernetes\n")[2].partition("\n## ")[0]
        self.values, self.job, self.files = (block.partition("```")[0] for block in self.page.split("\n```")[1::2])

    def made(self, script, stateful_set, *words):
        """What a script of the page would create."""
        program = script.partition("jq '")[2].partition("'")[0]
        return json.loads(run("jq", program, "--args", "--", *words, stdin=json.dumps(stateful_set)).stdout)

    def servers(self):
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
            file.write(self.values.partition("\n")[2])
            file.flush()
            yield render(file.name, name="tertulia")
            yield render(file.name, "--set", "extraArgs={--log-level,debug},extraContainers[0].name=other,initContainers[0].name=before,podSecurityContext.runAsUser=7", name="tertulia")
        yield Manifests(run("kubectl", "kustomize", "deploy/kubernetes/overlays/single").stdout)

    def test_the_way_to_backups(self):
        server, *_ = self.servers()
        check(server)
        self.assertEqual(server.config()["admin"]["backup_dir"], "/backups")

    def test_the_job_and_the_pod_have_the_claim_as_the_server_has_it(self):
        for server in self.servers():
            stateful_set = server.one("StatefulSet")
            (template,) = stateful_set["spec"]["volumeClaimTemplates"]
            _, spec = server.server()
            (own,) = [container for container in spec["containers"] if container["name"] == "tertulia"]
            job = self.made(self.job, stateful_set, "log", "export", "--group", "Dogs")
            pod = self.made(self.files, stateful_set)
            Manifests(yaml.safe_dump_all([job, pod])).validate()
            for kind, each in (("Job", job["spec"]["template"]["spec"]), ("Pod", pod["spec"])):
                check_restricted(kind, each)
                (container,) = each["containers"]
                for field in ("securityContext", "resources", "volumeMounts"):
                    self.assertEqual(container[field], own[field])
                self.assertEqual(each["securityContext"], spec["securityContext"])
                claims = {volume["name"]: volume["persistentVolumeClaim"]["claimName"] for volume in each["volumes"] if "persistentVolumeClaim" in volume}
                self.assertEqual(claims[template["metadata"]["name"]], f"data-{stateful_set['metadata']['name']}-0")
                self.assertLessEqual({mount["name"] for mount in container["volumeMounts"]}, {volume["name"] for volume in each["volumes"]})
            (container,) = job["spec"]["template"]["spec"]["containers"]
            self.assertEqual((container["image"], container["args"]), (own["image"], ["log", "export", "--group", "Dogs", *own["args"]]))

    def test_the_commands_are_taken_with_the_arguments_of_the_server(self):
        manifests = render(None, "--set", "extraArgs={--set,limits.groups=5,--log-level,warn}")
        (own,) = manifests.server()[1]["containers"]
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "tertulia.yaml"
            file.write_text(yaml.safe_dump({**manifests.config(), "log": {"data_dir": f"{folder}/data"}}))
            more = [str(file) if word == "/etc/tertulia/tertulia.yaml" else word for word in own["args"]]
            (Path(folder) / "data").mkdir()
            for words in (("verify",), ("stats",), ("backup", f"{folder}/monday")):
                done = run(server_binary(), "log", *words, *more, check=False)
                self.assertNotEqual(done.returncode, 2, done.stderr)


class Kustomize(unittest.TestCase):
    def test_every_overlay_is_valid_and_keeps_our_rules(self):
        self.assertTrue(OVERLAYS)
        for overlay in OVERLAYS:
            with self.subTest(overlay.name):
                manifests = Manifests(run("kubectl", "kustomize", overlay).stdout)
                manifests.validate()
                check(manifests)

    def test_the_admin_token_component(self):
        with tempfile.TemporaryDirectory(dir=ROOT / "target") as folder:
            up = "../../deploy/kubernetes"
            kustomization = {"resources": [f"{up}/overlays/single"], "components": [f"{up}/components/admin-token"]}
            (Path(folder) / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
            manifests = Manifests(run("kubectl", "kustomize", folder).stdout)
        manifests.validate()
        check(manifests)
        self.assertEqual([port["name"] for port in manifests.one("Service", "tertulia-ops")["spec"]["ports"]], ["http", "admin"])

    def test_the_authentication_component(self):
        for overlay in ("single", "cluster"):
            with tempfile.TemporaryDirectory(dir=ROOT / "target") as folder:
                up = "../../deploy/kubernetes"
                kustomization = {"resources": [f"{up}/overlays/{overlay}"], "components": [f"{up}/components/authentication", f"{up}/components/tls-chat"]}
                (Path(folder) / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
                manifests = Manifests(run("kubectl", "kustomize", folder).stdout)
            manifests.validate()
            check(manifests)
            _, spec = manifests.server()
            (container,) = spec["containers"]
            self.assertEqual(effective(manifests, container)["auth"]["keys_file"], "/etc/tertulia-auth/keys")
            (volume,) = [volume["secret"] for volume in spec["volumes"] if volume["name"] == "auth-keys"]
            # What the page of the component has made.
            made = f"kubectl create secret generic {volume['secretName']} --from-file={volume['items'][0]['key']}\n"
            self.assertIn(made, (ROOT / "deploy/kubernetes/components/authentication/kustomization.yaml").read_text())

    def test_the_servers_of_nats(self):
        manifests = Manifests(run("kubectl", "kustomize", "deploy/kubernetes/nats").stdout)
        manifests.validate()
        ((kind, metadata, spec),) = manifests.pods()
        check_restricted(kind, spec)
        check_dns(manifests.one("NetworkPolicy"))
        self.assertTrue(spec["automountServiceAccountToken"] is False and spec["enableServiceLinks"] is False)
        (container,) = spec["containers"]
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        for service in manifests.of("Service"):
            self.assertLessEqual(service["spec"]["selector"].items(), metadata["labels"].items())
            for port in service["spec"]["ports"]:
                self.assertEqual(port["port"], ports[port["targetPort"]])
        (volume,) = [volume for volume in spec["volumes"] if volume["name"] == "config"]
        text = manifests.one("ConfigMap", volume["configMap"]["name"])["data"]["nats.conf"]
        self.assertIn("sync_interval: always", text)
        self.assertIn("no_advertise: true", text)
        self.assertEqual(container["lifecycle"]["preStop"]["exec"]["command"], ["nats-server", "--signal", "ldm=1"])
        duration = int(text.partition("lame_duck_duration: ")[2].partition("s")[0])
        self.assertGreater(spec["terminationGracePeriodSeconds"], duration)
        self.assertEqual(container["startupProbe"]["httpGet"]["path"], "/healthz")
        (memory,) = [each["value"] for each in container["env"] if each["name"] == "GOMEMLIMIT"]
        self.assertLess(int(memory.removesuffix("MiB")), 1024 * int(container["resources"]["limits"]["memory"].removesuffix("Gi")))
        stateful = manifests.one("StatefulSet")["spec"]
        for number in range(stateful["replicas"]):
            self.assertIn(f"nats://tertulia-nats-{number}.{stateful['serviceName']}:{ports['cluster']}", text)
        for name in ("client", "cluster", "monitor"):
            self.assertIn(f"0.0.0.0:{ports[name]}", text)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "nats.conf"
            file.write_text(text.replace("/data", folder))
            environment = self.environment_of_nats(container, "3e7")
            run("nats-server", "-t", "--config", file, env=environment)
            # The token counts as it is, also where it looks like a number.
            self.assertEqual(environment["NATS_TOKEN"], '"3e7"')
        self.assertIn("  token: $NATS_TOKEN\n", text)
        for name, nodes in (("nats", 1), ("cluster", 3)):
            overlay = Manifests(run("kubectl", "kustomize", f"deploy/kubernetes/overlays/{name}").stdout)
            self.assertEqual(overlay.config()["nats"]["urls"], f"nats://tertulia-nats:{ports['client']}")
            self.assertEqual(overlay.config()["nats"]["replicas"], stateful["replicas"])
            self.assertEqual(overlay.one("StatefulSet")["spec"]["replicas"], nodes)
            # Both have the token of one Secret.
            (token,) = [each["valueFrom"]["secretKeyRef"] for each in container["env"] if "secretKeyRef" in each.get("valueFrom", {})]
            (volume,) = [volume["secret"] for volume in overlay.server()[1]["volumes"] if volume["name"] == "nats"]
            self.assertEqual((volume["secretName"], overlay.config()["nats"]["token_file"]), (token["name"], f"/etc/tertulia-nats/{token['key']}"))
            self.assert_lets_in(manifests, overlay)
        # The pods of the chart too, whatever they are called.
        for name in ("tertulia", "chat"):
            self.assert_lets_in(manifests, render(ROOT / "tests/deploy/values/cluster.yaml", "--set", f"nameOverride={name}"))

    @staticmethod
    def environment_of_nats(container, token):
        """As Kubernetes makes it."""
        environment = {}
        for each in container["env"]:
            value = each.get("value", token if "secretKeyRef" in each.get("valueFrom", {}) else "tertulia-nats-0")
            for name, earlier in environment.items():
                value = value.replace(f"$({name})", earlier)
            environment[each["name"]] = value
        return environment

    def assert_lets_in(self, nats, server):
        """Servers of NATS let in the pods of the server, by the port for clients, and nobody else by it."""
        (callers,) = [rule["from"] for rule in nats.one("NetworkPolicy")["spec"]["ingress"] if rule["ports"][0]["port"] == "client"]
        callers = [each["podSelector"]["matchLabels"] for each in callers]
        for kind, metadata, _ in server.pods():
            lets_in = any(caller.items() <= metadata["labels"].items() for caller in callers)
            self.assertEqual(lets_in, kind == "StatefulSet", f"{kind} {callers}")
        self.assertFalse(any(caller.items() <= metadata["labels"].items() for _, metadata, _ in nats.pods() for caller in callers))

    def test_the_way_to_a_collector_of_traces_is_what_the_page_says(self):
        (added,) = [block for block in (ROOT / "docs/traces.md").read_text().split("```yaml\n") if block.startswith("patches:")]
        with tempfile.TemporaryDirectory(dir=ROOT / "target") as folder:
            kustomization = {"resources": ["../../deploy/kubernetes/overlays/single"], **yaml.safe_load(added.partition("```")[0])}
            (Path(folder) / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
            manifests = Manifests(run("kubectl", "kustomize", folder).stdout)
        manifests.validate()
        check(manifests)
        check_traces(manifests.one("NetworkPolicy"), {"enabled": True, "endpoint": "http://collector:4317"})

    def test_the_components_of_tls(self):
        for names in (["tls-chat"], ["tls-http"], ["admin-token", "tls-admin"], ["admin-token", "tls-chat", "tls-admin", "tls-http"]):
            with self.subTest(" ".join(names)), tempfile.TemporaryDirectory(dir=ROOT / "target") as folder:
                up = "../../deploy/kubernetes"
                kustomization = {"resources": [f"{up}/overlays/single"], "components": [f"{up}/components/{name}" for name in names]}
                (Path(folder) / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
                manifests = Manifests(run("kubectl", "kustomize", folder).stdout)
                manifests.validate()
                check(manifests)
                secrets = [volume["secret"]["secretName"] for volume in manifests.server()[1]["volumes"] if "secret" in volume]
                self.assertEqual(sorted(secrets), sorted(f"tertulia-{name.removeprefix('tls-')}-tls" if "tls" in name else "tertulia-admin" for name in names))

    def test_no_fixed_users_on_openshift(self):
        fixed = {"runAsUser", "runAsGroup", "fsGroup"}
        for part in ("overlays/single", "overlays/cluster", "nats"):
            manifests = [Manifests(run("kubectl", "kustomize", f"deploy/kubernetes/{part}").stdout)]
            with tempfile.TemporaryDirectory(dir=ROOT / "target") as folder:
                up = "../../deploy/kubernetes"
                (Path(folder) / "kustomization.yaml").write_text(yaml.safe_dump({"resources": [f"{up}/{part}"], "components": [f"{up}/components/openshift"]}))
                manifests.append(Manifests(run("kubectl", "kustomize", folder).stdout))
            before, after = ([spec["securityContext"] for _, _, spec in each.pods()] for each in manifests)
            self.assertEqual(after, [{key: value for key, value in each.items() if key not in fixed} for each in before], part)
        # What the README of the chart says.
        (said,) = [line for line in (CHART / "README.md").read_text().splitlines() if "podSecurityContext.runAsUser=null" in line]
        option = said.partition("`--set ")[2].partition("`")[0]
        pods = list(render(None, "--set", option).pods())
        self.assertEqual(len(pods), 3)
        for kind, _, spec in pods:
            self.assertEqual(set(spec["securityContext"]), {"runAsNonRoot", "fsGroupChangePolicy", "seccompProfile"}, kind)

    def test_the_chart_and_the_overlays_describe_the_same_server(self):
        self.same_server("single", {"config": {}})
        self.same_server("cluster", yaml.safe_load((ROOT / "tests/deploy/values/cluster.yaml").read_text()))

    def same_server(self, name, values):
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
            yaml.safe_dump(values, file)
            chart = render(file.name, name="tertulia")
        overlay = Manifests(run("kubectl", "kustomize", f"deploy/kubernetes/overlays/{name}").stdout)
        wanted = {**overlay.config(), "admin": {"address": "127.0.0.1:8089"}}
        wanted["log"].setdefault("data_dir", "/var/lib/tertulia")
        self.assertEqual(chart.config(), wanted)
        for field in ("replicas", "minReadySeconds", "updateStrategy", "podManagementPolicy"):
            self.assertEqual(*(each.one("StatefulSet")["spec"].get(field) for each in (chart, overlay)), field)
        (_, one), (_, other) = chart.server(), overlay.server()
        for spec in (one, other):
            for constraint in spec["topologySpreadConstraints"]:
                constraint.pop("labelSelector")
            spec["volumes"] = sorted(volume["name"] for volume in spec["volumes"])
        self.assertEqual(sorted(one), sorted(other))
        for key in one:
            if key == "containers":
                for field in one[key][0]:
                    ordered = (lambda v: sorted(v, key=str) if isinstance(v, list) else v)
                    self.assertEqual(ordered(one[key][0][field]), ordered(other[key][0][field]), field)
            else:
                self.assertEqual(one[key], other[key], key)
        names = [sorted((item["kind"], item["metadata"]["name"]) for item in each.objects if item["kind"] not in ("ConfigMap", "Job", "Pod")) for each in (chart, overlay)]
        self.assertEqual(names[0], names[1])


class Compose(unittest.TestCase):
    def setUp(self):
        self.folder = ROOT / "deploy"
        self.compose = yaml.safe_load((self.folder / "compose.yaml").read_text())

    def test_services_listen_on_loopback_and_keep_what_they_have(self):
        services = self.compose["services"]
        self.assertEqual(set(services), {"server", "prometheus", "grafana"})
        for service in services.values():
            for port in service["ports"]:
                self.assertTrue(port.startswith("127.0.0.1:"), port)
        used = {volume.split(":")[0] for service in services.values() for volume in service["volumes"] if not volume.startswith(".")}
        self.assertEqual(used, set(self.compose["volumes"]))
        server = services["server"]
        self.assertTrue(server["read_only"] and server["cap_drop"] == ["ALL"])
        self.assertGreater(seconds(server["stop_grace_period"]), 20)
        self.assertTrue((self.folder / server["build"]["context"] / server["build"]["dockerfile"]).is_file())

    def test_the_image_asks_whether_it_is_alive_and_who_waits_for_it_whether_it_is_ready(self):
        _, _, asked = (self.folder / "docker/Dockerfile").read_text().partition("\nHEALTHCHECK ")
        command = json.loads(asked.partition("CMD ")[2].partition("\n")[0])
        self.assertEqual(command[1:3], ["health", "--live"])
        self.assertNotIn("--config", command, "it would not know of a file that TERTULIA_CONFIG names")
        for name in ("compose.yaml", "compose.cluster.yaml"):
            services = yaml.safe_load((self.folder / name).read_text())["services"]
            for service in services.values():
                waits = service.get("depends_on", {})
                for other in [other for other in waits if isinstance(waits, dict) and waits[other]["condition"] == "service_healthy"]:
                    test = services[other]["healthcheck"]["test"]
                    self.assertEqual(test, ["CMD", *(word for word in command if word != "--live")])

    def test_arguments_of_the_image_add_to_its_configuration(self):
        stage = (self.folder / "docker/Dockerfile").read_text().rpartition("\nFROM ")[2]
        lines = stage.splitlines()
        self.assertFalse([line for line in lines if line.startswith("CMD")], "arguments would replace it")
        self.assertIn('ENTRYPOINT ["/usr/local/bin/tertulia-server"]', lines)
        (named,) = [line.removeprefix("ENV ").split("=") for line in lines if line.startswith("ENV")]
        (copied,) = [line.split()[1:] for line in lines if line.startswith("COPY deploy/")]
        # Where the file is in the image, and here.
        name, path = named
        self.assertEqual(path, copied[1] + Path(copied[0]).name)
        environment = {name: str(ROOT / copied[0])}
        said = run(server_binary(), "--log-level", "debug", "print-config", "--format", "json", env=environment).stdout
        config = json.loads(said)
        self.assertEqual((config["chat"]["address"], config["log"]["data_dir"]), ("0.0.0.0:8088", "/var/lib/tertulia"))

    def test_the_cluster_is_three_nodes_on_three_nats_servers_that_sync(self):
        compose = yaml.safe_load((self.folder / "compose.cluster.yaml").read_text())
        services = compose["services"]
        nodes = {name: service for name, service in services.items() if name.startswith("chat-")}
        servers = {name: service for name, service in services.items() if name.startswith("nats-")}
        self.assertEqual((len(nodes), len(servers), len(services)), (3, 3, 6))
        for name, node in nodes.items():
            environment = node["environment"]
            self.assertEqual(environment["TERTULIA__CLUSTER__NODE_ID"], name)
            self.assertEqual(environment["TERTULIA__NATS__REPLICAS"], "3")
            self.assertEqual({url.split("//")[1].split(":")[0] for url in environment["TERTULIA__NATS__URLS"].split(",")}, set(servers))
            self.assertTrue(node["read_only"] and node["cap_drop"] == ["ALL"])
            self.assertGreater(seconds(node["stop_grace_period"]), 20)
            self.assertTrue(all(port.startswith("127.0.0.1:") for port in node["ports"]))
        # One image, built once: some engines refuse to write the same name a second time at the same moment. Whoever does not build it looks for it nowhere else.
        self.assertEqual(len({node["image"] for node in nodes.values()}), 1)
        (builder,) = [name for name, node in nodes.items() if "build" in node]
        self.assertEqual({node.get("pull_policy") for name, node in nodes.items() if name != builder}, {"never"})
        self.assertTrue((self.folder / nodes[builder]["build"]["context"] / nodes[builder]["build"]["dockerfile"]).is_file())
        used = {volume.split(":")[0] for server in servers.values() for volume in server["volumes"] if not volume.startswith(".")}
        self.assertEqual(used, set(compose["volumes"]))
        self.assertIn("sync_interval: always", (self.folder / "nats/nats.conf").read_text())

    def as_told(self, name):
        """Follows what a second file says of the files that it wants, up to Docker; what it adds to the server, and the environment that finds these files."""
        need("openssl")
        text = (self.folder / name).read_text()
        added = yaml.safe_load(text)["services"]
        self.assertLessEqual(set(added), set(self.compose["services"]))
        server = added["server"]
        (mounted,) = server["volumes"]
        folder, _, inside = mounted.removesuffix(":ro").rpartition(":")
        steps = [line.removeprefix("#     ") for line in text.splitlines() if line.startswith("#     ")]
        (docker,) = [number for number, step in enumerate(steps) if step.startswith("docker compose ")]
        self.assertIn(f" -f deploy/compose.yaml -f deploy/{name} ", steps[docker])
        folder_of_own = tempfile.TemporaryDirectory()
        self.addCleanup(folder_of_own.cleanup)
        place = Path(folder_of_own.name)
        (place / "deploy").mkdir()
        # The caution of whoever has one is not to keep the server from reading them.
        run("sh", "-euc", "umask 077\n" + "\n".join(steps[:docker]), cwd=place)
        made = place / "deploy" / folder.partition(":-./")[2].removesuffix("}")
        for path in (made, *made.iterdir()):
            self.assertEqual(path.stat().st_mode & 0o004, 0o004, path)
        return server, {name: value.replace(inside, str(made)) for name, value in server["environment"].items()}

    def test_the_admin_api_is_added_by_a_second_file(self):
        server, environment = self.as_told("compose.admin.yaml")
        (port,) = server["ports"]
        config = ["--config", ROOT / "deploy/docker/tertulia.yaml", "--set", "log.engine=memory"]
        said = json.loads(run(server_binary(), "print-config", "--format", "json", *config, env=environment).stdout)["admin"]
        self.assertEqual(port, "127.0.0.1:8089:" + said["address"].partition(":")[2])
        run(server_binary(), "check-config", "--files", *config, env=environment)
        Path(environment["TERTULIA__ADMIN__TOKEN_FILE"]).unlink()
        self.assertNotEqual(run(server_binary(), "check-config", "--files", *config, env=environment, check=False).returncode, 0)

    def test_authentication_is_added_by_a_second_file(self):
        _, environment = self.as_told("compose.auth.yaml")
        config = ["check-config", "--files", "--config", ROOT / "deploy/docker/tertulia.yaml", "--set", "log.engine=memory"]
        run(server_binary(), *config, env=environment)
        # The key that signs is not among what the server is given.
        (file,) = [Path(path) for path in environment.values()]
        self.assertEqual(list(file.parent.iterdir()), [file])
        file.unlink()
        self.assertNotEqual(run(server_binary(), *config, env=environment, check=False).returncode, 0)
        ignored = run("git", "check-ignore", "deploy/auth", "deploy/issuer.pem").stdout.split()
        self.assertEqual(ignored, ["deploy/auth", "deploy/issuer.pem"])

    def test_tls_is_added_by_a_second_file(self):
        _, found = self.as_told("compose.tls.yaml")
        run(server_binary(), "check-config", "--files", "--config", ROOT / "deploy/docker/tertulia.yaml", "--set", "log.engine=memory", env=found)
        more = yaml.safe_load((self.folder / "compose.tls.yaml").read_text())["services"]
        environment = more["server"]["environment"]
        (mounted,) = more["server"]["volumes"]
        for path in environment.values():
            self.assertEqual(path.rpartition("/")[0], mounted.split(":")[-2])
        said = run(server_binary(), "print-config", "--format", "json", "--config", ROOT / "deploy/docker/tertulia.yaml", env=environment).stdout
        self.assertEqual(set(json.loads(said)["chat"]["tls"].values()), set(environment.values()))

    @unittest.skipUnless((ROOT / "deploy/prometheus").is_dir(), "there are no rules yet")
    def test_what_is_mounted_is_there(self):
        for service in self.compose["services"].values():
            for volume in service["volumes"]:
                source = volume.split(":")[0]
                if source.startswith("."):
                    self.assertTrue((self.folder / source).is_dir(), source)
        run("promtool", "check", "config", self.folder / "prometheus" / "prometheus.yml")
        for path in (self.folder / "grafana/provisioning").glob("*/*.yaml"):
            self.assertTrue(yaml.safe_load(path.read_text())["apiVersion"])


class Systemd(unittest.TestCase):
    def test_the_unit_fits_the_server_and_the_page_the_unit(self):
        file = ROOT / "deploy/systemd/tertulia.service"
        unit = configparser.ConfigParser(interpolation=None)
        unit.optionxform = str
        unit.read_string(file.read_text())
        service = unit["Service"]
        page = (ROOT / "docs/deployment.md").read_text().partition("\n## With systemd\n")[2].partition("\n## ")[0]
        (line,) = [line for line in page.splitlines() if line.startswith("printf ")]
        with tempfile.TemporaryDirectory() as folder:
            configuration = Path(folder) / "tertulia.toml"
            configuration.write_text(run("printf", shlex.split(line)[1]).stdout)
            _, *arguments = shlex.split(service["ExecStart"])
            self.assertIn(f"{arguments[arguments.index('--config') + 1]}\n", page)
            arguments[arguments.index("--config") + 1] = str(configuration)
            config = json.loads(run(server_binary(), *arguments, "print-config", "--format", "json").stdout)
        self.assertEqual(config["chat"]["address"], "0.0.0.0:8088")
        self.assertEqual(config["log"]["data_dir"], f"/var/lib/{service['StateDirectory']}")
        self.assertGreater(int(service["TimeoutStopSec"]), seconds(config["drain"]["grace"]))
        self.assertGreater(int(service["LimitNOFILE"]), config["limits"]["connections"] + config["admin"]["connections"] + config["http"]["connections"])
        self.assertEqual(unit["Unit"]["StartLimitIntervalSec"], "0", "it would stay down after five quick failures")
        # What a wrong configuration ends with is not tried again.
        done = run(server_binary(), "--set", "limits.connections=0", check=False)
        self.assertEqual(done.returncode, int(service["RestartPreventExitStatus"]))
        for name in re.findall(r"deploy/systemd/\S+\.service", page):
            self.assertTrue((ROOT / name).is_file(), name)


class Yaml(unittest.TestCase):
    def test_yamllint(self):
        rules = "{extends: default, rules: {line-length: disable, document-start: disable, braces: {max-spaces-inside: 0}, comments: {min-spaces-from-content: 1}}}"
        files = [name for name in run("git", "ls-files", "*.yaml", "*.yml", "--cached", "--others", "--exclude-standard").stdout.splitlines() if "/templates/" not in name]
        run("yamllint", "--strict", "--config-data", rules, *files)
