"""Rendered manifests: reading them, and what all of ours must keep to."""

import tempfile
from pathlib import Path

from support import ROOT, need_python_libraries, run, server_binary

need_python_libraries()
import yaml  # noqa: E402


class Strict(yaml.SafeLoader):
    """Takes no map that has a key twice, of which one would be lost without a word."""

    def construct_mapping(self, node, deep=False):
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        assert len(keys) == len(set(keys)), f"a key twice{node.start_mark}: {sorted(keys)}"
        return super().construct_mapping(node, deep)


class Manifests:
    """The objects of one rendering."""

    def __init__(self, text):
        self.text = text
        self.objects = [item for item in yaml.load_all(text, Strict) if item]

    def of(self, kind):
        return [item for item in self.objects if item["kind"] == kind]

    def one(self, kind, name=None):
        found = [item for item in self.of(kind) if name is None or item["metadata"]["name"] == name]
        assert len(found) == 1, f"{len(found)} objects {kind} {name or ''}"
        return found[0]

    def pods(self):
        """What pods are made from, by the kind of what makes them: (kind, metadata, spec)."""
        for item in self.objects:
            if item["kind"] in ("StatefulSet", "Job"):
                template = item["spec"]["template"]
                yield item["kind"], template["metadata"], template["spec"]
            elif item["kind"] == "Pod":
                yield "Pod", item["metadata"], item["spec"]

    def validate(self):
        """Against the schemas of Kubernetes; unknown fields are errors. Kinds of others have no schema here."""
        own = [item for item in self.objects if item["apiVersion"].partition("/")[0] not in ("monitoring.coreos.com", "cert-manager.io")]
        said = run("kubernetes-validate", "--strict", "-", stdin=yaml.safe_dump_all(own))
        assert said.stdout.count("passed for resource") == len(own), said.stdout

    def config(self):
        """The file that the server is given."""
        (volume,) = [volume for volume in self.server()[1]["volumes"] if volume["name"] == "config"]
        return yaml.safe_load(self.one("ConfigMap", volume["configMap"]["name"])["data"]["tertulia.yaml"])

    def server(self):
        """The pod of the server: (metadata, spec)."""
        ((_, metadata, spec),) = [pod for pod in self.pods() if pod[0] == "StatefulSet"]
        return metadata, spec


def check(manifests):
    """Everything that holds for every rendering."""
    check_names(manifests)
    _, server = manifests.server()
    for kind, metadata, spec in manifests.pods():
        check_restricted(kind, spec)
        assert spec["automountServiceAccountToken"] is False and spec["enableServiceLinks"] is False, kind
        # What comes beside the server runs where the server may.
        for field in ("nodeSelector", "tolerations", "priorityClassName", "runtimeClassName"):
            assert spec.get(field) == server.get(field), f"{kind}: {field}"
        assert spec.get("affinity", {}).get("nodeAffinity") == server.get("affinity", {}).get("nodeAffinity"), kind
    check_selectors(manifests)
    check_ports_and_config(manifests)
    check_volumes(manifests)
    check_nodes(manifests)


def check_names(manifests):
    keys = [(item["kind"], item["metadata"].get("namespace"), item["metadata"]["name"]) for item in manifests.objects]
    assert len(keys) == len(set(keys)), f"two objects of one name: {sorted(keys)}"
    for item in manifests.objects:
        assert len(item["metadata"]["name"]) <= 63 or item["kind"] == "ConfigMap", item["metadata"]["name"]
        for key, value in item["metadata"].get("labels", {}).items():
            assert isinstance(value, str) and len(value) <= 63, f"{item['kind']}: label {key}: {value}"


def check_restricted(kind, spec):
    """The profile `restricted` and a bit more: limits, no writable root, images that are named."""
    pod = spec["securityContext"]
    assert pod["runAsNonRoot"] is True and pod["runAsUser"] > 0 and pod["seccompProfile"]["type"] == "RuntimeDefault", kind
    assert not any(spec.get(name) for name in ("hostNetwork", "hostPID", "hostIPC")), kind
    for container in spec["containers"] + spec.get("initContainers", []):
        context = container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False and context["readOnlyRootFilesystem"] is True, container["name"]
        assert context["capabilities"] == {"drop": ["ALL"]}, container["name"]
        assert {"cpu", "memory"} <= set(container["resources"]["limits"]), container["name"]
        assert ":" in container["image"], container["image"]
    for volume in spec.get("volumes", []):
        allowed = {"configMap", "secret", "emptyDir", "downwardAPI", "projected", "persistentVolumeClaim"}
        assert set(volume) - {"name"} <= allowed, volume


def check_selectors(manifests):
    """Whatever selects pods selects the server's, and no other pod of the release."""
    stateful = manifests.one("StatefulSet")
    pods = [(kind, metadata["labels"]) for kind, metadata, _ in manifests.pods()]
    selectors = [("StatefulSet", stateful["spec"]["selector"]["matchLabels"])]
    selectors += [("Service", item["spec"]["selector"]) for item in manifests.of("Service")]
    selectors += [("PodDisruptionBudget", item["spec"]["selector"]["matchLabels"]) for item in manifests.of("PodDisruptionBudget")]
    selectors += [("NetworkPolicy", item["spec"]["podSelector"]["matchLabels"]) for item in manifests.of("NetworkPolicy")]
    selectors += [
        ("topologySpreadConstraints", each["labelSelector"]["matchLabels"])
        for each in stateful["spec"]["template"]["spec"]["topologySpreadConstraints"]
    ]
    for where, selector in selectors:
        chosen = [kind for kind, labels in pods if selector.items() <= labels.items()]
        assert chosen == ["StatefulSet"], f"{where} selects {chosen}"
    headless = manifests.one("Service", stateful["spec"]["serviceName"])["spec"]
    assert headless["clusterIP"] == "None" and headless["publishNotReadyAddresses"] is True
    # Operators get to a server that is not ready, and clients do not.
    published = {item["metadata"]["name"].rpartition("-")[2] for item in manifests.of("Service") if item["spec"].get("publishNotReadyAddresses")}
    assert published == {"headless", "ops"}, published
    for monitor in manifests.of("ServiceMonitor"):
        wanted = monitor["spec"]["selector"]["matchLabels"]
        services = [item for item in manifests.of("Service") if wanted.items() <= item["metadata"]["labels"].items()]
        assert len(services) == 1, f"ServiceMonitor selects {len(services)} services"
        assert monitor["spec"]["endpoints"][0]["port"] in [port["name"] for port in services[0]["spec"]["ports"]]
        # The rules find the job by its name.
        assert "tertulia" in services[0]["metadata"]["labels"][monitor["spec"]["jobLabel"]]


def check_ports_and_config(manifests):
    """The server takes the configuration, binds the ports that the container names, and services and probes lead to these."""
    metadata, spec = manifests.server()
    (container,) = [each for each in spec["containers"] if each["name"] == "tertulia"]
    config = effective(manifests, container)
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    for part in ("chat", "http"):
        address, _, port = config[part]["address"].rpartition(":")
        assert ports[part] == int(port) and address in ("0.0.0.0", "[::]"), part
    address, _, port = config["admin"]["address"].rpartition(":")
    if "admin" in ports:
        assert ports["admin"] == int(port) and address in ("0.0.0.0", "[::]")
        assert config["admin"]["token_file"] or config["admin"]["client_ca_file"] or config["admin"]["insecure"]
    else:
        assert address in ("127.0.0.1", "[::1]")
    for service in manifests.of("Service"):
        for port in service["spec"]["ports"]:
            assert port["targetPort"] in ports, f"{service['metadata']['name']}: {port}"
        # Load balancers lead to the chat alone.
        if service["spec"]["type"] != "ClusterIP":
            assert [port["name"] for port in service["spec"]["ports"]] == ["chat"]
    for policy in manifests.of("NetworkPolicy"):
        opened = {port["port"] for rule in policy["spec"]["ingress"] for port in rule["ports"]}
        assert opened == set(ports), f"{opened} {set(ports)}"
        check_traces(policy, config["telemetry"]["traces"])
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        path = "/readyz" if probe == "readinessProbe" else "/livez"
        scheme = {"scheme": "HTTPS"} if config["http"]["tls"]["cert_file"] else {}
        assert container[probe]["httpGet"] == {"path": path, "port": "http", **scheme}
    check_files(config, spec, container)
    check_tls(manifests, config)
    annotations = metadata["annotations"]
    assert annotations.get("prometheus.io/scheme") == ("https" if config["http"]["tls"]["cert_file"] and "prometheus.io/port" in annotations else None)
    if "prometheus.io/port" in annotations:
        assert annotations["prometheus.io/port"] == str(ports["http"])
    assert spec["terminationGracePeriodSeconds"] > seconds(config["drain"]["grace"])


def check_traces(policy, traces):
    """Who sends traces out of the pod gets to the collector."""
    place, _, port = (traces["endpoint"] or "http://localhost:4317").rstrip("/").partition("//")[2].rpartition(":")
    if traces["enabled"] and place not in ("localhost", "127.0.0.1", "[::1]"):
        opened = [each["port"] for rule in policy["spec"]["egress"] for each in rule["ports"]]
        assert {int(port)} <= set(opened), f"{opened} {port}"
        check_dns(policy)


def check_dns(policy):
    """Names can be asked for, also where the pods of the DNS do not listen at the port of its Service, as on OpenShift."""
    opened = {(each["port"], each["protocol"]) for rule in policy["spec"]["egress"] for each in rule["ports"]}
    assert {(port, protocol) for port in (53, 5353) for protocol in ("UDP", "TCP")} <= opened, opened


def check_files(config, spec, container):
    """What proves who somebody is, is in mounted folders, which are renewed."""
    mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    files = [config[port]["tls"][name] for port in ("chat", "admin", "http") for name in ("cert_file", "key_file")]
    for file in filter(None, [*files, config["admin"]["client_ca_file"], config["admin"]["token_file"], config["auth"]["keys_file"], config["auth"]["users_file"]]):
        folder, _, name = file.rpartition("/")
        assert "subPath" not in mounts[folder], f"{folder} would never be renewed"
        volume = volumes[mounts[folder]["name"]]
        # Without a list, each key of the Secret is a file.
        if "items" in volume.get("secret", {}):
            assert name in [item["path"] for item in volume["secret"]["items"]], file


def check_tls(manifests, config):
    """Those who speak to a port are told that it speaks TLS."""
    for service in manifests.of("Service"):
        for port in service["spec"]["ports"]:
            if "appProtocol" in port:
                secure = config[port["name"]]["tls"]["cert_file"]
                assert (port["appProtocol"] == "https") == bool(secure), port
    for monitor in manifests.of("ServiceMonitor"):
        assert (monitor["spec"]["endpoints"][0].get("scheme") == "https") == bool(config["http"]["tls"]["cert_file"])


def effective(manifests, container, pod=0):
    """What the server makes of its file, environment and arguments; fails with its words if they are wrong. `pod` is the pod's number."""
    config, environment = manifests.config(), {}
    for each in container.get("env", []):
        if each.get("valueFrom") == {"fieldRef": {"fieldPath": "metadata.name"}}:
            value = f"{manifests.one('StatefulSet')['metadata']['name']}-{pod}"
        else:
            value = each.get("value", "")
            for name, earlier in environment.items():
                value = value.replace(f"$({name})", earlier)
        environment[each["name"]] = value
    environment = {name: value for name, value in environment.items() if name.startswith("TERTULIA__")}
    more = container["args"][2:]
    assert container["args"][:2] == ["--config", "/etc/tertulia/tertulia.yaml"]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "tertulia.yaml"
        file.write_text(yaml.safe_dump(config))
        run(server_binary(), "check-config", "--config", file, *more, env=environment)
        said = run(server_binary(), "print-config", "--format", "json", "--config", file, *more, env=environment)
    return yaml.safe_load(said.stdout)


def seconds(text):
    units = {"ms": 0.001, "s": 1, "m": 60, "h": 3600}
    total = 0
    for part in text.split():
        number = part.rstrip("mshour")
        total += float(number) * units[part[len(number):]]
    return total


def check_volumes(manifests):
    """Every mount has a volume, and an engine on disk has one where its data is."""
    _, spec = manifests.server()
    claims = manifests.one("StatefulSet")["spec"].get("volumeClaimTemplates", [])
    volumes = {volume["name"] for volume in spec["volumes"]} | {claim["metadata"]["name"] for claim in claims}
    (container,) = [each for each in spec["containers"] if each["name"] == "tertulia"]
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert set(mounts) == volumes, f"{mounts} {volumes}"
    log = manifests.config()["log"]
    if log["engine"] == "embedded":
        assert mounts["data"] == log["data_dir"]
    else:
        assert "data" not in mounts
    for volume in spec["volumes"]:
        if volume["name"] == "data" and "sizeLimit" in volume.get("emptyDir", {}):
            # The server refuses posts before Kubernetes evicts the pod with all that it has.
            share = effective(manifests, container)["log"]["disk_bytes"] / quantity(volume["emptyDir"]["sizeLimit"])
            assert 0.5 < share < 0.9, share


def quantity(text):
    """A size as Kubernetes writes it, in bytes."""
    units = {"k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
    number = text.rstrip("kKMGTi")
    return float(number) * units.get(text[len(number):], 1)


# As many as the chart allows.
MOST_PODS = 30


def check_nodes(manifests):
    """Pods are nodes of one server only where messages are shared, each under a name of its own, and they leave one at a time with time to hand over."""
    stateful = manifests.one("StatefulSet")["spec"]
    # One pod at a time, also without saying so: a cluster that does not know `maxUnavailable` drops it, and those who compare with what was asked for would never be done.
    assert stateful["updateStrategy"] == {"type": "RollingUpdate"}
    (container,) = [each for each in manifests.server()[1]["containers"] if each["name"] == "tertulia"]
    scalers = manifests.of("HorizontalPodAutoscaler")
    shared = manifests.config()["log"]["engine"] == "nats"
    for budget in manifests.of("PodDisruptionBudget"):
        # Where all of several pods turn not ready at once, since NATS is away, they are not evicted at once. One alone would keep its node from being drained.
        pods = min([scaler["spec"]["minReplicas"] for scaler in scalers] or [stateful["replicas"]])
        assert budget["spec"]["unhealthyPodEvictionPolicy"] == ("IfHealthyBudget" if pods > 1 else "AlwaysAllow")
    if not shared:
        assert stateful["replicas"] <= 1 and not scalers
        return
    assert stateful.get("replicas", 0) <= MOST_PODS
    first, last = (effective(manifests, container, pod) for pod in (0, MOST_PODS - 1))
    nodes = [config["cluster"]["node_id"] for config in (first, last)]
    assert nodes[0] != nodes[1] and nodes[1].endswith(f"-{MOST_PODS - 1}"), nodes
    assert stateful["minReadySeconds"] >= seconds(first["drain"]["reconnect_after"])
    drain = {name: seconds(time) for name, time in first["drain"].items()}
    # Until the endpoints are changed everywhere.
    assert drain["delay"] >= 1, drain
    assert drain["grace"] >= max(drain["delay"], 3 * seconds(first["cluster"]["handover"])) + drain["reconnect_after"] + drain["linger"] + 3, drain
    assert {each["topologyKey"] for each in stateful["template"]["spec"]["topologySpreadConstraints"]} >= {"kubernetes.io/hostname"}
    for policy in manifests.of("NetworkPolicy"):
        opened = [port["port"] for rule in policy["spec"]["egress"] for port in rule["ports"]]
        servers = first["nats"]["urls"].split(",")
        wanted = {int(server.rpartition(":")[2]) if server.count(":") == 2 else 4222 for server in servers}
        assert wanted <= set(opened), f"{opened} {wanted}"
        check_dns(policy)
    for scaler in scalers:
        check_autoscaler(manifests, scaler["spec"], stateful, first)


def check_autoscaler(manifests, scaler, stateful, config):
    """It scales the server, by metrics that there are, and nobody else says how many pods there are."""
    name = manifests.one("StatefulSet")["metadata"]["name"]
    assert scaler["scaleTargetRef"] == {"apiVersion": "apps/v1", "kind": "StatefulSet", "name": name}
    assert "replicas" not in stateful or stateful["replicas"] == 0
    assert 1 <= scaler["minReplicas"] <= scaler["maxReplicas"] <= MOST_PODS
    assert scaler["metrics"]
    for metric in scaler["metrics"]:
        if metric["type"] == "Pods":
            named = metric["pods"]["metric"]["name"]
            assert f"| `{named}` | gauge |" in (ROOT / "docs" / "metrics.md").read_text(), named
            assert int(metric["pods"]["target"]["averageValue"]) < config["limits"]["connections"]
        else:
            assert metric["containerResource"]["container"] == "tertulia" and metric["containerResource"]["name"] == "cpu"
