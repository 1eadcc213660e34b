"""A fake of Kubernetes' API, as a real one needs a cluster: one Rollout, as Argo Rollouts' objects look.

It refuses all that the account's role does not allow, and whoever comes without the account's token.
"""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

DIGESTS = {letter: "sha256:" + letter * 64 for letter in "abc"}

MESSAGE = 'RolloutAborted: metric "requests" assessed Failed due to failed (1) > failureLimit (0)'


class FakeKubernetes:
    """One Rollout and its ReplicaSets: hash -> digest of the model in its template."""

    def __init__(self) -> None:
        self.abort = False
        self.current, self.stable = "hash-b", "hash-a"
        self.sets = {"hash-a": DIGESTS["a"], "hash-b": DIGESTS["b"]}
        self.refuse = False
        self.asked: list[str] = []
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                fake.asked.append(self.path)
                known = self.headers["Authorization"] == "Bearer token-of-test" and not fake.refuse
                answer = fake.answer(self.path) if known else None
                self.send_response(200 if answer is not None else 403)
                self.end_headers()
                self.wfile.write(json.dumps(answer or {}).encode())

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def answer(self, path: str) -> dict[str, object] | None:
        parts = urlsplit(path)
        if parts.path == "/apis/argoproj.io/v1alpha1/namespaces/troika-production/rollouts/triton":
            status = {
                "currentPodHash": self.current,
                "stableRS": self.stable,
                "phase": "Degraded",
                "message": MESSAGE,
            }
            return {"kind": "Rollout", "status": {**status, "abort": True} if self.abort else status}
        if parts.path == "/apis/apps/v1/namespaces/troika-production/replicasets":
            (selector,) = parse_qs(parts.query)["labelSelector"]
            wanted = selector.removeprefix("rollouts-pod-template-hash=")
            items = [
                {"spec": {"template": {"metadata": {"annotations": {"troika/model-digest": digest}}}}}
                for name, digest in self.sets.items()
                if name == wanted
            ]
            return {"kind": "ReplicaSetList", "items": items}
        return None
