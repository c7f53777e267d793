"""Several nodes of tertulia on three servers of NATS, in namespaces that enforce the profile `restricted`, and what happens to them while people chat."""

import json
import time
import unittest
from collections import Counter

import chat
import nats
from cluster import Cluster, LogFollower, Namespace, admin, image_values, page
from support import ROOT, WORK, Background, wait_until

CHART = ROOT / "helm" / "tertulia"
CLUSTER = None
NATS, TERTULIA = "app.kubernetes.io/name=nats", "app.kubernetes.io/name=tertulia,app.kubernetes.io/component=server"
SHARDS = 1024
# No client may go unserved for longer, in seconds.
UNSERVED = 5


def setUpModule():
    global CLUSTER
    CLUSTER = Cluster()
    try:
        archive = nats.archive()
        if archive:
            CLUSTER.load(archive)
    except BaseException:
        CLUSTER.stop()
        raise


def tearDownModule():
    CLUSTER.stop()


class Crowd:
    """Groups whose clients are spread over all nodes at first, and go where the service leads them whenever they are cut off."""

    GROUPS, POSTERS, PAUSE = 4, 2, 0.1

    def __init__(self, namespace, what):
        self.namespace, self.what = namespace, what
        self.service = namespace.service("tertulia", 8088)
        self.pods = self.reach_all()
        self.loads = [
            chat.Load(self.where(number), f"{what} {number}", posters=self.POSTERS, readers=len(self.pods), pause=self.PAUSE)
            for number in range(self.GROUPS)
        ]
        for load in self.loads:
            load.start()

    def reach_all(self):
        return [self.namespace.reach(pod, 8088) for pod in sorted(self.namespace.pods(TERTULIA))]

    def where(self, first):
        return lambda name, times: self.service if times else self.pods[(first + int(name.rpartition("-")[2])) % len(self.pods)]

    def progress(self):
        for load in self.loads:
            load.progress()

    def abandon(self):
        for load in self.loads:
            load.abandon()

    def finish(self):
        """Nothing is lost, doubled or in another order, whichever node is asked; tells who was unserved for how long at most, in seconds."""
        for load in self.loads:
            load.stop()
        nodes = self.reach_all()
        for load in self.loads:
            load.verify(*nodes)
        worst = Counter()
        for load in self.loads:
            for name, seconds in load.unserved.items():
                kind = name.partition("-")[0]
                worst[kind] = max(worst[kind], seconds)
        posts = sum(len(load.acked) for load in self.loads)
        again = sum(times - 1 for load in self.loads for times in load.reconnects.values())
        clients = sum(len(load.reconnects) for load in self.loads)
        print(
            f"{self.what}: {posts} posts of {clients} clients, who connected again {again} times; unserved for at most {worst['poster']:.2f} s, "
            f"silent for at most {worst['reader']:.2f} s", flush=True,
        )
        return max(worst.values()), again


class Watch:
    """How many pods of the StatefulSet were ready at least, from now on."""

    def __init__(self, namespace):
        self.file = WORK / f"watch-{time.monotonic_ns()}.txt"
        words = ["get", "statefulset", "tertulia", "--watch", "--output", 'jsonpath={.status.readyReplicas}{"\\n"}']
        self.process = Background("kubectl", "--namespace", namespace.name, *words, log=self.file)
        wait_until("the watch begins", lambda: self.file.stat().st_size > 0, 20)

    def least(self):
        self.process.stop()
        counts = [int(line or 0) for line in self.file.read_text().splitlines()]
        self.file.unlink()
        return min(counts)


class OnNats(unittest.TestCase):
    """A namespace with the servers of NATS as they are shipped."""

    @classmethod
    def setUpClass(cls):
        cls.namespace = Namespace(cls.__name__.lower())
        cls.addClassCleanup(cls.namespace.remove)
        cls.namespace.kubectl("create", "secret", "generic", "tertulia-nats", "--from-literal=token=sesame")
        cls.apply("nats")
        cls.namespace.rolled_out("tertulia-nats")

    @classmethod
    def apply(cls, part):
        said = cls.namespace.kubectl("apply", "-k", cls.namespace.kustomization(part))
        assert "Warning" not in said.stderr, f"of the Pod Security profile: {said.stderr}"

    def under_load(self, what, act):
        """Does something to the nodes while people chat, and measures for how long whoever was concerned was not served."""
        crowd = Crowd(self.namespace, what)
        self.addCleanup(crowd.abandon)
        act()
        crowd.progress()
        worst, again = crowd.finish()
        self.assertLess(worst, UNSERVED)
        return again

    def forwards(self):
        """The admin API of each node, which listens on loopback of its pod."""
        return {pod: self.namespace.forward(f"pod/{pod}", 8089) for pod in sorted(self.namespace.pods(TERTULIA))}

    def every_node_tells_the_same(self, names):
        """All nodes go by one map, on which each has its share, and know the same groups."""
        forwards = self.forwards()
        self.assertEqual(list(forwards), names)

        def agreed():
            maps = {pod: json.loads(admin(address, "GetShardMap").stdout) for pod, address in forwards.items()}
            for pod, told in maps.items():
                nodes = {node["name"]: node for node in told["nodes"]}
                assert sorted(nodes) == names and not any(node.get("leaving") for node in nodes.values()), told
                assert [name for name, node in nodes.items() if node.get("answering")] == [pod], told
                assert sum(node["shardCount"] for node in nodes.values()) == SHARDS, told
                # By the hash an even share, more or less.
                assert min(node["shardCount"] for node in nodes.values()) > SHARDS / len(names) / 2, told
            assert len({told["version"] for told in maps.values()}) == 1, maps
            groups = [json.loads(admin(address, "ListGroups", request='{"page_size": 1000}').stdout)["groups"] for address in forwards.values()]
            assert all(each == groups[0] for each in groups), groups
            return groups[0]

        groups = wait_until("all nodes tell the same", agreed, 30, every=0.5)
        self.assertLessEqual({group["node"] for group in groups}, set(names))
        return groups

    def owners(self, pods):
        return {name: pod["metadata"]["uid"] for name, pod in pods.items()}


class Servers:
    """What the servers of NATS tell at their monitoring ports."""

    # Those of the log, the nodes, and the notes of moderators.
    STREAMS = 16 + 2

    def __init__(self, namespace):
        self.namespace = namespace

    def names(self):
        return sorted(self.namespace.pods(NATS))

    def ask(self, pod, path):
        return json.loads(page(self.namespace.reach(pod, 8222), path))

    def streams(self):
        """Each stream, with its cluster, as its leader tells it."""
        found = {}
        for pod in self.names():
            for account in self.ask(pod, "/jsz?accounts=1&streams=1&config=1").get("account_details", []):
                for stream in account.get("stream_detail", []):
                    if stream.get("cluster", {}).get("leader") == pod:
                        found[stream["name"]] = stream
        return found

    def are_current(self):
        """All streams have a leader and two replicas that have what it has."""
        streams = self.streams()
        assert len(streams) == self.STREAMS, sorted(streams)
        for name, stream in streams.items():
            replicas = stream["cluster"].get("replicas", [])
            assert len(replicas) == 2 and all(replica.get("current") for replica in replicas), f"{name}: {stream['cluster']}"
        return streams


class Nodes(OnNats):
    """kubectl apply -k, and what befalls pods. The tests follow each other."""

    NAMES = ["tertulia-0", "tertulia-1", "tertulia-2"]

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.servers = Servers(cls.namespace)
        cls.apply("overlays/cluster")
        cls.namespace.rolled_out("tertulia")

    def rolled_out(self):
        self.namespace.rolled_out("tertulia", 240)

    def test_1_servers_of_nats_sync_and_are_three(self):
        names = self.servers.names()
        self.assertEqual(names, [f"tertulia-nats-{number}" for number in range(3)])
        for name in names:
            said = self.servers.ask(name, "/varz")
            self.assertEqual(said["server_name"], name)
            self.assertTrue(said["jetstream"]["config"]["sync_always"], said["jetstream"])
            self.assertTrue(said["jetstream"]["config"]["store_dir"].startswith("/data"))
            self.assertNotIn("connect_urls", said, "clients would be told addresses of pods")
            self.assertEqual(self.servers.ask(name, "/healthz")["status"], "ok")
            claim = self.namespace.get("pvc", f"data-{name}")
            self.assertEqual(claim["status"]["phase"], "Bound")
        wait_until("all replicas are current", self.servers.are_current, 30)
        budget = self.namespace.get("pdb", "tertulia-nats")["status"]
        self.assertEqual((budget["expectedPods"], budget["currentHealthy"], budget["disruptionsAllowed"]), (3, 3, 1))
        for pod in [*self.namespace.pods(NATS).values(), *self.namespace.pods(TERTULIA).values()]:
            self.assertEqual(pod["status"]["containerStatuses"][0]["restartCount"], 0, pod["metadata"]["name"])

    def test_2_every_node_tells_the_same(self):
        self.assertEqual(self.under_load("calm", lambda: None), 0)
        groups = self.every_node_tells_the_same(self.NAMES)
        self.assertEqual([group["name"] for group in groups], [f"calm {number}" for number in range(Crowd.GROUPS)])

    def test_3_a_rollout(self):
        def restart():
            watch = Watch(self.namespace)
            self.namespace.kubectl("rollout", "restart", "statefulset/tertulia")
            self.rolled_out()
            self.assertGreaterEqual(watch.least(), 2, "more than one pod was away")

        before = self.owners(self.namespace.pods(TERTULIA))
        self.assertGreater(self.under_load("rollout restart", restart), 0)
        after = self.owners(self.namespace.pods(TERTULIA))
        self.assertFalse(set(before.values()) & set(after.values()), "a pod is the old one")

    def test_4_a_pod_is_killed(self):
        def kill():
            self.namespace.kubectl("delete", "pod", "tertulia-1", "--grace-period=0", "--force", "--wait=false")
            self.namespace.ready_pod(other_than=before, name="tertulia-1")

        before = self.namespace.ready_pod(name="tertulia-1")
        self.assertGreater(self.under_load("kill", kill), 0)

    def test_5_a_server_of_nats_is_deleted(self):
        leaders = Counter(stream["cluster"]["leader"] for stream in wait_until("all replicas are current", self.servers.are_current, 30).values())
        ((name, leads),) = leaders.most_common(1)
        before = self.namespace.ready_pod(name=name)
        claim = self.namespace.get("pvc", f"data-{name}")["metadata"]["uid"]
        log = LogFollower(self.namespace, name)

        def delete():
            self.namespace.kubectl("delete", "pod", name, "--wait=false")
            # No other one may be taken away before it is back.
            wait_until("the budget is used up", lambda: self.namespace.get("pdb", "tertulia-nats")["status"]["disruptionsAllowed"] == 0, 30)
            other = next(each for each in self.servers.names() if each != name)
            self.assertIn("disruption budget", self.namespace.evict(other, check=False).stderr)
            self.namespace.ready_pod(other_than=before, name=name)
            wait_until("all replicas are current", self.servers.are_current, 60)

        print(f"{name} leads {leads} of {Servers.STREAMS} streams", flush=True)
        self.under_load("NATS deletion", delete)
        self.assertEqual(self.namespace.get("pvc", f"data-{name}")["metadata"]["uid"], claim)
        self.assertIn("lame duck", log.end().lower())
        events = self.namespace.get("events", "--field-selector", "reason=FailedPreStopHook")["items"]
        self.assertEqual([event["message"] for event in events], [])

    def test_6_an_eviction(self):
        def evict():
            log = LogFollower(self.namespace, "tertulia-2")
            self.namespace.evict("tertulia-2")
            refused = self.namespace.evict("tertulia-0", check=False)
            self.assertIn("disruption budget", refused.stderr, "two at a time")
            self.namespace.ready_pod(other_than=before, name="tertulia-2")
            # The library of NATS may have the last word.
            self.assertIn('"stopped"', "".join(log.end().splitlines()[-3:]), "the server did not end by itself")

        before = self.namespace.ready_pod(name="tertulia-2")
        self.assertGreater(self.under_load("eviction", evict), 0)

    def test_7_more_nodes_and_fewer(self):
        def scale(replicas):
            self.namespace.kubectl("scale", "statefulset/tertulia", f"--replicas={replicas}")
            self.rolled_out()
            wait_until("the others are gone", lambda: len(self.namespace.get("pods", "--selector", TERTULIA)["items"]) == replicas, 60)

        self.assertEqual(self.under_load("three to five", lambda: scale(5)), 0)
        self.every_node_tells_the_same([f"tertulia-{number}" for number in range(5)])
        self.assertGreater(self.under_load("five to three", lambda: scale(3)), 0)
        self.every_node_tells_the_same(self.NAMES)

    def test_7_nobody_is_evicted_while_nats_is_away(self):
        def ready():
            conditions = [each for pod in self.namespace.pods(TERTULIA).values() for each in pod["status"]["conditions"]]
            return [each for each in conditions if each["type"] == "Ready" and each["status"] == "True"]

        before = self.owners(self.namespace.pods(TERTULIA))
        self.namespace.kubectl("scale", "statefulset/tertulia-nats", "--replicas=0")
        wait_until("no node is ready", lambda: not ready(), 90)
        wait_until("the budget has seen it", lambda: self.namespace.get("pdb", "tertulia")["status"]["currentHealthy"] == 0, 30)
        for name in self.NAMES:
            self.assertIn("disruption budget", self.namespace.evict(name, check=False).stderr, name)
        self.namespace.kubectl("scale", "statefulset/tertulia-nats", "--replicas=3")
        self.namespace.rolled_out("tertulia-nats")
        wait_until("all nodes are ready", lambda: len(ready()) == len(self.NAMES), 60)
        self.assertEqual(self.owners(self.namespace.pods(TERTULIA)), before)

    def test_8_one_node_on_the_same_messages(self):
        self.namespace.kubectl("delete", "-k", self.namespace.kustomization("overlays/cluster"))
        left = self.namespace.names("statefulset,service,networkpolicy,poddisruptionbudget")
        self.assertFalse([name for name in left if "nats" not in name], left)
        wait_until("the pods are gone", lambda: not self.namespace.get("pods", "--selector", TERTULIA)["items"], 60)
        self.apply("overlays/nats")
        self.rolled_out()
        address = self.namespace.service("tertulia", 8088)
        chat.round_trip(address)
        reader = chat.Client(address, "reader")
        joined = reader.join("calm 0")
        self.assertEqual(len(reader.history("calm 0")), joined["head"])
        self.assertGreater(joined["head"], 10)
        reader.close()


class Release(OnNats):
    """The chart, with three nodes. The tests follow each other."""

    NAMES = Nodes.NAMES

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        said = cls.namespace.helm("install", "tertulia", CHART, "--wait", "--timeout", "120s", *cls.values("replicas=3"))
        assert "would violate PodSecurity" not in said.stdout + said.stderr, said.stderr

    @staticmethod
    def values(*more):
        values = ["config.log.engine=nats", "config.nats.urls=nats://tertulia-nats:4222", "config.nats.replicas=3", "config.nats.token_file=/etc/tertulia-nats/token", "nats.existingSecret=tertulia-nats", *more]
        return [*image_values(), *(word for value in values for word in ("--set", value))]

    def upgrade(self, *more):
        return self.namespace.helm("upgrade", "tertulia", CHART, "--wait", "--timeout", "240s", *self.values(*more), timeout=250)

    def test_1_helm_test(self):
        self.namespace.helm("test", "tertulia", "--timeout", "60s")
        self.every_node_tells_the_same(self.NAMES)

    def test_2_an_upgrade_takes_one_pod_at_a_time(self):
        def upgrade():
            watch = Watch(self.namespace)
            self.upgrade("replicas=3", "config.limits.groups=4321")
            self.assertGreaterEqual(watch.least(), 2, "more than one pod was away")

        before = self.owners(self.namespace.pods(TERTULIA))
        self.assertGreater(self.under_load("upgrade", upgrade), 0)
        after = self.owners(self.namespace.pods(TERTULIA))
        self.assertFalse(set(before.values()) & set(after.values()), "a pod is the old one")
        for pod in self.NAMES:
            config = self.namespace.kubectl("exec", pod, "--", "tertulia-server", "print-config", "--config", "/etc/tertulia/tertulia.yaml").stdout
            self.assertIn("groups = 4321", config)

    def test_3_an_autoscaler_leaves_the_pods_that_there_are(self):
        before = self.owners(self.namespace.pods(TERTULIA))
        watch = Watch(self.namespace)
        self.upgrade("autoscaling.enabled=true", "config.limits.groups=4321")

        def looked():
            conditions = self.namespace.get("hpa", "tertulia")["status"].get("conditions", [])
            return "True" in [each["status"] for each in conditions if each["type"] == "AbleToScale"]

        wait_until("the autoscaler has looked at the pods", looked, 60, every=0.5)
        scaler = self.namespace.get("hpa", "tertulia")
        self.assertEqual((scaler["spec"]["minReplicas"], scaler["spec"]["maxReplicas"]), (3, 10))
        self.assertEqual(scaler["status"]["currentReplicas"], 3)
        # The number that the autoscaler has asked for is not undone by the next upgrade.
        self.namespace.kubectl("scale", "statefulset/tertulia", "--replicas=4")
        self.namespace.rolled_out("tertulia")
        self.upgrade("autoscaling.enabled=true", "config.limits.groups=4321")
        self.assertEqual(watch.least(), 3)
        after = self.owners(self.namespace.pods(TERTULIA))
        self.assertEqual(len(after), 4)
        self.assertLessEqual(before.items(), after.items())

    def test_4_uninstalling_leaves_nothing(self):
        self.namespace.helm("uninstall", "tertulia", "--wait", "--timeout", "90s")
        wait_until("the pods are gone", lambda: not self.namespace.get("pods", "--selector", TERTULIA)["items"], 60)
        kinds = "statefulset,service,configmap,secret,serviceaccount,networkpolicy,poddisruptionbudget,horizontalpodautoscaler,job,pod,pvc"
        # What the servers of NATS have, and what every namespace is given.
        given = ("ConfigMap/kube-root-ca.crt", "ConfigMap/openshift-service-ca.crt", "ServiceAccount/default")
        left = [name for name in self.namespace.names(kinds) if name not in given and "tertulia-nats" not in name]
        self.assertEqual(left, [])
