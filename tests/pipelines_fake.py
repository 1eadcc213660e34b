"""A fake of Kubeflow Pipelines' API server, which needs a cluster: paths and fields are those that the SDK uses.

It keeps what it is given and plays a run's states one after the other. What a real one does with a package is not
shown by it.
"""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import yaml
from flask import Flask, request
from werkzeug.serving import make_server

API = "/apis/v2beta1"


class FakeKubeflow:
    """What the fake was given, and what it will answer."""

    def __init__(self) -> None:
        self.pipelines: dict[str, str] = {}
        self.versions: dict[str, dict[str, Any]] = {}
        self.experiments: dict[str, str] = {}
        self.runs: dict[str, dict[str, Any]] = {}
        self.recurring: dict[str, dict[str, Any]] = {}
        self.plays: list[dict[str, Any]] = []
        """Answers to the next questions for a run; the last one stays."""
        self.refuse_with: int | None = None
        self.tokens: set[str | None] = set()
        self.url = ""

    def app(self) -> Flask:
        app = Flask("fake-kubeflow")

        @app.before_request
        def check() -> Any:
            self.tokens.add(request.headers.get("authorization"))
            if self.refuse_with and not request.path.endswith("healthz"):
                return {"error_details": "no such right"}, self.refuse_with
            return None

        @app.get(f"{API}/healthz")
        def health() -> Any:
            return {"multi_user": False, "tag_name": "2.5.0"}

        @app.get(f"{API}/pipelines")
        def list_pipelines() -> Any:
            wanted = json.loads(request.args["filter"])["predicates"][0]["stringValue"]
            found = [{"pipeline_id": i, "display_name": n} for i, n in self.pipelines.items() if n == wanted]
            return {"pipelines": found} if found else {}

        @app.post(f"{API}/pipelines/upload")
        def upload() -> Any:
            identity = f"p{len(self.pipelines)}"
            self.pipelines[identity] = request.args["name"]
            self._keep_version(identity, request.args["name"])
            return {"pipeline_id": identity, "display_name": request.args["name"]}

        @app.post(f"{API}/pipelines/upload_version")
        def upload_version() -> Any:
            return self._keep_version(request.args["pipelineid"], request.args["name"])

        @app.get(f"{API}/pipelines/<pipeline>/versions")
        def versions(pipeline: str) -> Any:
            return self._page(
                "pipeline_versions", [v for v in self.versions.values() if v["pipeline_id"] == pipeline]
            )

        @app.get(f"{API}/experiments")
        def list_experiments() -> Any:
            return {"experiments": [{"experiment_id": i, "display_name": n} for i, n in self.experiments.items()]}

        @app.post(f"{API}/experiments")
        def experiment() -> Any:
            name = request.get_json()["display_name"]
            self.experiments[f"e{len(self.experiments)}"] = name
            return {"experiment_id": f"e{len(self.experiments) - 1}", "display_name": name}

        @app.post(f"{API}/runs")
        def start() -> Any:
            identity = f"r{len(self.runs)}"
            self.runs[identity] = request.get_json()
            return {"run_id": identity, "display_name": "run"}

        @app.get(f"{API}/runs/<run>")
        def run(run: str) -> Any:
            return {"run_id": run, **(self.plays.pop(0) if len(self.plays) > 1 else self.plays[0])}

        @app.get(f"{API}/recurringruns")
        def list_recurring() -> Any:
            return self._page("recurringRuns", list(self.recurring.values()))

        @app.post(f"{API}/recurringruns")
        def create_recurring() -> Any:
            identity = f"c{len(self.recurring)}-{request.get_json()['display_name']}"
            self.recurring[identity] = {**request.get_json(), "recurring_run_id": identity}
            return self.recurring[identity]

        @app.delete(f"{API}/recurringruns/<identity>")
        def delete_recurring(identity: str) -> Any:
            del self.recurring[identity]
            return {}

        return app

    def _keep_version(self, pipeline: str, name: str) -> dict[str, Any]:
        package = list(yaml.safe_load_all(request.files["uploadfile"].read()))
        identity = f"v{len(self.versions)}"
        self.versions[identity] = {
            "pipeline_id": pipeline, "pipeline_version_id": identity, "display_name": name,
            "pipeline_spec": package[0],
        }  # fmt: skip
        return self.versions[identity]

    @staticmethod
    def _page(what: str, found: list[dict[str, Any]]) -> dict[str, Any]:
        """One entry a page, so that whoever reads the first page alone is found out."""
        number = int(request.args.get("page_token") or 0)
        more = {"next_page_token": str(number + 1)} if number + 1 < len(found) else {}
        return {what: found[number : number + 1], **more}


@contextmanager
def fake_kubeflow() -> Iterator[FakeKubeflow]:
    fake = FakeKubeflow()
    server = make_server("127.0.0.1", 0, fake.app(), threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    fake.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield fake
    finally:
        server.shutdown()
        server.server_close()
