"""The API of a Kubernetes as far as Helm asks it before it changes anything: which kinds there are, and one StatefulSet, so that what the chart looks up can be tested without a cluster."""

import json
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

KINDS = {
    "v1": {"ConfigMap": "configmaps", "Pod": "pods", "Service": "services", "ServiceAccount": "serviceaccounts"},
    "apps/v1": {"StatefulSet": "statefulsets"},
    "autoscaling/v2": {"HorizontalPodAutoscaler": "horizontalpodautoscalers"},
    "batch/v1": {"Job": "jobs"},
    "networking.k8s.io/v1": {"NetworkPolicy": "networkpolicies"},
    "policy/v1": {"PodDisruptionBudget": "poddisruptionbudgets"},
}


class Api:
    """Listens on loopback for as long as it is in use; `kubeconfig` is the file that leads there."""

    def __init__(self, stateful_set):
        metadata = stateful_set["metadata"]
        versions = [{"groupVersion": version, "version": version.partition("/")[2]} for version in KINDS if "/" in version]
        answers = {
            "/version": {"major": "1", "minor": "33", "gitVersion": "v1.33.0"},
            "/api": {"kind": "APIVersions", "versions": ["v1"]},
            "/apis": {"kind": "APIGroupList", "apiVersion": "v1", "groups": [
                {"name": each["groupVersion"].partition("/")[0], "versions": [each], "preferredVersion": each} for each in versions]},
            f"/apis/apps/v1/namespaces/{metadata['namespace']}/statefulsets/{metadata['name']}": stateful_set,
        }
        for version, kinds in KINDS.items():
            resources = [{"name": name, "kind": kind, "namespaced": True, "verbs": ["get"]} for kind, name in kinds.items()]
            answers[f"/{'apis' if '/' in version else 'api'}/{version}"] = {"kind": "APIResourceList", "groupVersion": version, "resources": resources}

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                found = answers.get(self.path.partition("?")[0])
                body = json.dumps(found or {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404}).encode()
                self.send_response(200 if found else 404)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.file = tempfile.NamedTemporaryFile("w", suffix=".yaml")
        self.kubeconfig = self.file.name

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        named = {"clusters": {"cluster": {"server": f"http://127.0.0.1:{self.server.server_port}"}}, "users": {"user": {}}, "contexts": {"context": {"cluster": "a", "user": "a"}}}
        json.dump({"apiVersion": "v1", "kind": "Config", "current-context": "a", **{key: [{"name": "a", **value}] for key, value in named.items()}}, self.file)
        self.file.flush()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()
        self.file.close()
