"""A fake of Kubeflow Pipelines' API server, which needs a cluster; it answers with the fields of recorded answers.

What was recorded lies in `pipelines/recorded`, with a table of what each file is. Recurring runs were not:
theirs are the fields of the API's specification. The fake keeps what it is given, refuses what the real one was
seen to refuse, and plays a run's answers one after the other. What a real one does with a package is not shown.
"""

import copy
import json
import re
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import yaml
from flask import Flask, Response, redirect, request
from werkzeug.serving import make_server

API = "/apis/v2beta1"
RECORDED = Path(__file__).parent / "pipelines" / "recorded"
LOGIN_PAGE = "<!doctype html><html><body>Log in to your account</body></html>"


def recorded(name: str) -> Any:
    """Return a recorded answer."""
    return json.loads((RECORDED / f"{name}.json").read_text(encoding="utf-8"))


class FakeKubeflow:
    """What the fake was given, and what it will answer."""

    def __init__(self) -> None:
        self.pipelines: dict[str, dict[str, Any]] = {}
        self.versions: dict[str, dict[str, Any]] = {}
        self.experiments: dict[str, dict[str, Any]] = {}
        self.runs: dict[str, dict[str, Any]] = {}
        self.recurring: dict[str, dict[str, Any]] = {}
        self.plays: list[dict[str, Any]] = []
        """Answers to the next questions for a run; the last one stays."""
        self.health: dict[str, Any] = recorded("healthz")
        self.faults: list[int | str] = []
        """What the next requests meet: a status, `drop` for a dropped connection, `lost` for an answer that is
        dropped after its work was done, `page` for a login page. Never the question for health."""
        self.health_faults: list[int] = []
        """What the question for health meets."""
        self.fault_of: dict[str, int | str | dict[str, Any]] = {}
        """The same by method and path, such as `POST /runs`; met once. A dict: JSON of something in between."""
        self.fault_of_each: int | str | None = None
        """What each request meets when it comes for the first time."""
        self.token: str | None = None
        """The only one that opens it; None: it asks for none."""
        self.namespace = "kubeflow"
        """The only one that the token's account may use."""
        self.refuse_recurring = self.refuse_retry = False
        self.tokens: list[str | None] = []
        self.paths: list[str] = []
        self.url = ""
        self._made = 0

    def app(self) -> Flask:
        app = Flask("fake-kubeflow")

        @app.before_request
        def check() -> Any:
            if request.path.endswith("/healthz"):
                return None
            self.paths.append(f"{request.method} {request.full_path}")
            self.tokens.append(request.headers.get("authorization"))
            return self._fault() or self._refused_access()

        @app.after_request
        def lose(answer: Response) -> Response:
            return _drop() if request.environ.get("lost") else answer

        @app.get(f"{API}/healthz")
        def health() -> Any:
            if self.health_faults:
                return Response("<html>Bad Gateway</html>", status=self.health_faults.pop(0))
            return self.health

        self._serve_pipelines(app)
        self._serve_runs(app)
        self._serve_recurring(app)
        return app

    def _fault(self) -> Any:
        fault: Any = self.fault_of.pop(f"{request.method} {request.path.removeprefix(API)}", None)
        if fault is None and self.faults:
            fault = self.faults.pop(0)
        if fault is None and self.paths.count(self.paths[-1]) == 1:
            fault = self.fault_of_each
        if fault is not None:
            if isinstance(fault, dict):
                return Response(json.dumps(fault), mimetype="application/json")
            if fault == "page":
                return Response(LOGIN_PAGE, mimetype="text/html")
            if fault == "redirect":
                return redirect(request.full_path)
            if fault == "drop":
                return _drop()
            if fault == "lost":
                request.environ["lost"] = True
            else:
                return Response("<html>Bad Gateway</html>", status=int(fault), mimetype="text/html")
        return None

    def _refused_access(self) -> Any:
        if self.token is not None and self.tokens[-1] != f"Bearer {self.token}":
            return recorded("noauth" if self.tokens[-1] is None else "badtoken"), 401
        asked = request.args.get("namespace")
        if asked and asked != self.namespace:
            return _error("foreign namespace")
        return None

    def _serve_pipelines(self, app: Flask) -> None:
        @app.get(f"{API}/pipelines")
        def list_pipelines() -> Any:
            namespace = request.args.get("namespace")
            return self._page("pipelines", [p for p in self.pipelines.values() if p.get("namespace") == namespace])

        @app.post(f"{API}/pipelines")
        def create_pipeline() -> Any:
            given = request.get_json()
            if any(
                p["name"] == given["name"] and p.get("namespace") == given.get("namespace")
                for p in self.pipelines.values()
            ):
                return _error("same pipeline name")
            return self.add_pipeline(given["name"], given.get("namespace"))

        @app.post(f"{API}/pipelines/upload")
        def upload() -> Any:
            made = self.add_pipeline(request.args["name"], request.args.get("namespace"))
            self._keep_version(made["pipeline_id"], request.args["name"])
            return made

        @app.post(f"{API}/pipelines/upload_version")
        def upload_version() -> Any:
            name, pipeline = request.args["name"], request.args["pipelineid"]
            if any(v["name"] == name and v["pipeline_id"] == pipeline for v in self.versions.values()):
                return _error("same version name")
            return self._keep_version(pipeline, name)

        @app.get(f"{API}/pipelines/<pipeline>/versions")
        def versions(pipeline: str) -> Any:
            return self._page(
                "pipeline_versions", [v for v in self.versions.values() if v["pipeline_id"] == pipeline]
            )

        @app.get(f"{API}/pipelines/<pipeline>/versions/<version>")
        def version(pipeline: str, version: str) -> Any:
            return self.versions[version] if version in self.versions else (recorded("nopipe"), 404)

        @app.get(f"{API}/experiments")
        def list_experiments() -> Any:
            return self._page("experiments", list(self.experiments.values()))

        @app.post(f"{API}/experiments")
        def create_experiment() -> Any:
            given, identity = request.get_json(), f"e{len(self.experiments)}"
            entry = dict(recorded("exps")["experiments"][0], experiment_id=identity, created_at=self._now())
            self.experiments[identity] = {
                **entry,
                "display_name": given["display_name"],
                "namespace": given["namespace"],
            }
            return self.experiments[identity]

    def _serve_runs(self, app: Flask) -> None:
        @app.post(f"{API}/runs")
        def start() -> Any:
            given = request.get_json()
            if refused := self._refused_arguments(given):
                return refused
            identity = f"r{len(self.runs)}"
            self.runs[identity] = given
            return self._run(identity, {"state": "PENDING"})

        @app.get(f"{API}/runs")
        def list_runs() -> Any:
            return self._page("runs", [self._run(identity, run) for identity, run in self.runs.items()])

        @app.get(f"{API}/runs/<run>")
        def run(run: str) -> Any:
            if not self.plays:
                return recorded("nopipe"), 404
            play = self.plays.pop(0) if len(self.plays) > 1 else self.plays[0]
            return {**self._run(run, {}), **play, "run_id": run}

        @app.post(f"{API}/runs/<run>:retry")
        def retry(run: str) -> Any:
            if self.refuse_retry:  # these words were seen, their surroundings are those of other refusals
                words = f"Workflow cannot be retried with node {run} in Running phase"
                return {"code": 13, "message": words, "details": []}, 500
            return {}

    def _serve_recurring(self, app: Flask) -> None:
        @app.get(f"{API}/recurringruns")
        def list_recurring() -> Any:
            return self._page("recurringRuns", list(self.recurring.values()))

        @app.post(f"{API}/recurringruns")
        def create_recurring() -> Any:
            if self.refuse_recurring:
                return _error("missing argument")
            identity = f"c{self._made}-{request.get_json()['display_name']}"
            self._made += 1
            self.recurring[identity] = {**request.get_json(), "recurring_run_id": identity}
            return self.recurring[identity]

        @app.delete(f"{API}/recurringruns/<identity>")
        def delete_recurring(identity: str) -> Any:
            if identity not in self.recurring:
                return recorded("nopipe"), 404
            del self.recurring[identity]
            return {}

    def add_pipeline(self, name: str, namespace: str | None) -> dict[str, Any]:
        identity = f"p{len(self.pipelines)}"
        entry = recorded("pipelines" if namespace is None else "pipelines_ns")["pipelines"][0]
        entry |= {"pipeline_id": identity, "display_name": name, "name": name, "created_at": self._now()}
        if namespace is not None:
            entry["namespace"] = namespace
        self.pipelines[identity] = entry
        return entry

    def asked(self, method: str, path: str) -> list[str]:
        """Return the requests of a method whose path matches."""
        return [entry for entry in self.paths if re.match(rf"{method} {API}{path}", entry)]

    def _keep_version(self, pipeline: str, name: str) -> dict[str, Any]:
        package = list(yaml.safe_load_all(request.files["uploadfile"].read()))
        identity = f"v{len(self.versions)}"
        entry = recorded("versions")["pipeline_versions"][0]
        spec = package[0] if len(package) == 1 else {"pipeline_spec": package[0], "platform_spec": package[1]}
        entry |= {"pipeline_id": pipeline, "pipeline_version_id": identity, "display_name": name, "name": name}
        self.versions[identity] = {**entry, "created_at": self._now(), "pipeline_spec": spec}
        return self.versions[identity]

    def _run(self, identity: str, state: dict[str, Any]) -> dict[str, Any]:
        """A run's fields as they were recorded, without its tasks."""
        whole = recorded("run_running")
        given = self.runs.get(identity, {})
        known = {key: given.get(key, whole[key]) for key in whole if key not in {"run_details", "state_history"}}
        known |= {"run_id": identity, "display_name": given.get("display_name", identity)}
        if given.get("service_account") is None:
            known["service_account"] = "pipeline-runner"
        # Only runs of recurring ones have their id.
        return known | {key: state[key] for key in ("state", "recurring_run_id", "created_at") if key in state}

    def _refused_arguments(self, given: dict[str, Any]) -> Any:
        """As the backend does: by the inputs of the package."""
        reference = given.get("pipeline_version_reference") or {}
        spec = given.get("pipeline_spec") or {}
        if reference:
            version = self.versions.get(reference["pipeline_version_id"])
            if version is None:
                return _error("no version")
            spec = version["pipeline_spec"]
        inputs = spec.get("pipeline_spec", spec)["root"]["inputDefinitions"]["parameters"]
        values = given.get("runtime_config", {}).get("parameters") or {}
        if any(name not in inputs for name in values):
            return _error("unknown argument")
        if any("defaultValue" not in entry and name not in values for name, entry in inputs.items()):
            return _error("missing argument")
        texts = [name for name, entry in inputs.items() if entry["parameterType"] == "STRING"]
        if any(not isinstance(values.get(name, ""), str) for name in texts):
            return _error("wrong type")
        return None

    def _now(self) -> str:
        """A second later each time: the order of two things made is the order of their times."""
        self._made += 1
        return (datetime(2026, 11, 28, tzinfo=UTC) + timedelta(seconds=self._made)).strftime("%Y-%m-%dT%H:%M:%SZ")

    @staticmethod
    def _page(what: str, found: list[dict[str, Any]]) -> dict[str, Any]:
        """One entry a page, so that whoever reads the first page alone is found out."""
        number = int(request.args.get("page_token") or 0)
        more = {"next_page_token": str(number + 1)} if number + 1 < len(found) else {}
        entries = copy.deepcopy(found[number : number + 1])
        return {**({what: entries} if entries else {}), "total_size": len(found), **more}


def _error(name: str) -> Any:
    found = recorded("errors")[name]
    return found["body"], found["status"]


def _drop() -> Response:
    connection = request.environ["werkzeug.socket"]
    connection.shutdown(2)
    connection.close()
    return Response("")


@contextmanager
def fake_kubeflow(certificate: tuple[Path, Path] | None = None) -> Iterator[FakeKubeflow]:
    """Run the fake, by HTTPS where a certificate and its key are given."""
    fake = FakeKubeflow()
    context = None
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*map(str, certificate))
    server = make_server("127.0.0.1", 0, fake.app(), threaded=True, ssl_context=context)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    fake.url = f"{'https' if certificate else 'http'}://127.0.0.1:{server.server_port}"
    try:
        yield fake
    finally:
        server.shutdown()
        server.server_close()
