"""Talk to the API server of Kubeflow Pipelines: URL, token, certificate, and what becomes of each refusal.

Every exception of the SDK becomes one sentence. Knows nothing of pipelines and runs.
"""

import json
import os
import re
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, ClassVar

import kfp_server_api
import urllib3
from kfp_server_api.exceptions import OpenApiException
from urllib3 import exceptions as http

from pipelines.backend import FEATURES, Feature, Version, lacking, parse_version, required_version
from pipelines.certificates import checked_certificates, tls_hint, tls_words
from troika.errors import ParameterError, TroikaError

TOKEN, TOKEN_FILE = "TROIKA_KUBEFLOW_TOKEN", "TROIKA_KUBEFLOW_TOKEN_FILE"
_SDK_TOKEN_FILE = "KF_PIPELINES_SA_TOKEN_PATH"  # noqa: S105 - where Kubeflow mounts a token into a notebook's pod
PATIENCE_SECONDS = 600.0
_TIMEOUT = (10, 60)
"""Seconds to connect, and to wait for an answer."""
_PAGE = 100
_TRANSIENT = {429, 502, 503, 504}
_LONGEST = 500


class KubeflowError(TroikaError):
    """Kubeflow Pipelines cannot be reached, or refuses."""

    def __init__(self, message: str, *, status: int = 0, transient: bool = False, foreign: bool = False) -> None:
        super().__init__(message)
        self.foreign = foreign
        """Return whether something else answered, such as the login page that an expired token leads to."""
        self.status = status
        """Of the HTTP answer; 0: there was none that could be understood."""
        self.transient = transient
        """Return whether the same request may succeed some minutes later."""


class LostSightError(KubeflowError):
    """A run goes on, but its state could not be read any more."""

    exit_status: ClassVar[int] = 3


class Connection:
    """A connection to one API server.

    Args:
        host: URL, such as http://localhost:8080 or https://kubeflow.example/pipeline.
        namespace: the user's, on a Kubeflow with many; all that is listed, made and started belongs to it.
        token_file: file with the token, read again for each request; None: the environment's, if it has one.
        ca: PEM file with the certificates that the server's is checked against; None: the public ones.
        patience_seconds: for how long a transient failure is met by asking again.
        say: takes a line if that happens now.

    Raises:
        ParameterError: the URL, the token or the certificate cannot be used.
        KubeflowError: what answers there is not Kubeflow Pipelines.
    """

    def __init__(
        self,
        host: str,
        namespace: str,
        token_file: Path | None = None,
        ca: Path | None = None,
        patience_seconds: float = PATIENCE_SECONDS,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.host, self.namespace = _checked_url(host), _checked_namespace(namespace)
        self._patience = patience_seconds
        self._token_file = token_file or _path_of(TOKEN_FILE)
        if self._token_file is None and TOKEN not in os.environ:
            self._token_file = _path_of(_SDK_TOKEN_FILE)
        configuration = kfp_server_api.Configuration(host=self.host)
        if ca is not None:
            configuration.ssl_ca_cert = checked_certificates(ca)
        if self._token_file is not None or os.environ.get(TOKEN):
            self._token()  # a wrong one is told before anything is sent
            configuration.api_key["authorization"] = "read for each request"
            configuration.api_key_prefix["authorization"] = "Bearer"
            configuration.refresh_api_key_hook = self._authorize
        self._api = kfp_server_api.ApiClient(configuration)
        self.pipelines = kfp_server_api.PipelineServiceApi(self._api)
        self.uploads = kfp_server_api.PipelineUploadServiceApi(self._api)
        self.experiments = kfp_server_api.ExperimentServiceApi(self._api)
        self.runs = kfp_server_api.RunServiceApi(self._api)
        self.recurring_runs = kfp_server_api.RecurringRunServiceApi(self._api)
        self._ask_health(say)
        # The SDK's model of this answer leaves the version out.
        health = json.loads(self._api.last_response.data)
        self.tag = str(health.get("tag_name") or "")
        self.multi_user = bool(health.get("multi_user"))

    def _ask_health(self, say: Callable[[str], None]) -> None:
        health = kfp_server_api.HealthzServiceApi(self._api).healthz_service_get_healthz

        def ask() -> KubeflowError | None:
            try:
                self.call(health)
            except KubeflowError as error:
                if error.transient and error.status:
                    raise
                return error  # where nothing has ever answered, the URL or the token is more likely to be wrong
            return None

        if failure := self.patiently(say, ask):
            raise failure

    @property
    def version(self) -> Version | None:
        """The backend's version; None where it calls itself `unknown`, `dev` or nothing."""
        return parse_version(self.tag)

    def check_version(self, package: Path | Iterable[str], say: Callable[[str], None]) -> None:
        """Raise KubeflowError where the backend is too old; say so where its version cannot be known."""
        said = judge_version(self.tag, package)
        if said is None:
            return
        if self.version is None:
            say(f"note: {self.host}: {said}")
            return
        raise KubeflowError(f"{self.host}: {said}")

    def call(self, method: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """Call a method of the SDK once.

        Raises:
            KubeflowError: whatever went wrong, in one sentence.
        """
        try:
            answer = method(*arguments, _request_timeout=_TIMEOUT, **options)
        except kfp_server_api.ApiException as error:
            raise self._refused(error) from None
        except http.HTTPError as error:
            raise self._unreachable(error) from None
        except (OpenApiException, OSError, ValueError, TypeError, AttributeError) as error:
            raise self._not_kubeflow(f"{type(error).__name__}: {_one_line(str(error))}") from None
        self._check_json()
        return answer

    def identity(self, answer: Any, field: str) -> str:
        """Return the id of what an answer describes.

        Raises:
            KubeflowError: it has none, so that the answer is something else's, such as `{}` of a gateway.
        """
        found = getattr(answer, field, None)
        if not found:
            raise self._not_kubeflow(f"an answer without {field}")
        return str(found)

    def call_patiently(
        self, say: Callable[[str], None], method: Callable[..., Any], *arguments: Any, **options: Any
    ) -> Any:
        """Call a method that changes nothing, again and again where the failure may pass.

        Raises:
            KubeflowError: a failure that does not pass, or did not for as long as the connection's patience.
        """
        return self.patiently(say, lambda: self.call(method, *arguments, **options))

    def patiently(self, say: Callable[[str], None], work: Callable[[], Any]) -> Any:
        """Return what `work` returns, asking again for minutes where it raises what may pass."""
        started, slept, delay, told = time.monotonic(), 0.0, 1.0, False
        while True:
            try:
                return work()
            except KubeflowError as error:
                spent = max(slept, time.monotonic() - started)
                # A token in a file is renewed by somebody else, who may be late.
                renewed = (error.status in {401, 403} or error.foreign) and self._token_file is not None
                if not (error.transient or renewed) or spent >= self._patience:
                    raise
                if not told:
                    told = True
                    say(f"  {error}; asking again for {self._patience / 60:.0f} min")
                time.sleep(delay)
                slept, delay = slept + delay, min(delay * 2, 15.0)

    def all(
        self, say: Callable[[str], None], method: Callable[..., Any], what: str, **arguments: Any
    ) -> list[Any]:
        """Return all entries of a list, page by page."""
        found: list[Any] = []
        token = ""
        while True:
            answer = self.call_patiently(say, method, page_token=token, page_size=_PAGE, **arguments)
            found += getattr(answer, what) or []
            token = answer.next_page_token or ""
            if not token:
                return found

    def server_time(self) -> datetime:
        """Return the server's time of the last answer; this machine's clock may differ."""
        date = self._api.last_response.urllib3_response.headers.get("date", "")
        try:
            return parsedate_to_datetime(date)
        except ValueError:
            return datetime.now(UTC)

    def _authorize(self, configuration: Any) -> None:
        configuration.api_key["authorization"] = self._token()

    def _token(self) -> str:
        if self._token_file is None:
            return check_token(os.environ.get(TOKEN, ""), TOKEN)
        try:
            text = self._token_file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is not text"
            raise KubeflowError(
                f"--token-file {self._token_file}: cannot be read ({reason})", transient=True
            ) from None
        return check_token(text, f"--token-file {self._token_file}")

    def _check_json(self) -> None:
        """Raise KubeflowError where a page answered: the SDK makes an empty object of it."""
        data = self._api.last_response.data
        text = data.decode("utf-8", "replace") if isinstance(data, bytes) else str(data or "")
        if text.strip():
            try:
                if isinstance(json.loads(text), Mapping):
                    return
            except ValueError:
                pass
            page = "a page" if "<" in text[:1000] else "something else"
            raise self._not_kubeflow(f"{page} instead of JSON; is there a login in front of it?")

    def _not_kubeflow(self, said: str) -> KubeflowError:
        return KubeflowError(
            f"{self.host} does not answer as Kubeflow Pipelines does ({said}); is the URL right, and does the "
            f"token (--token-file or {TOKEN}) open it?",
            foreign=True,
        )

    def _refused(self, error: Any) -> KubeflowError:
        status = int(error.status or 0)
        if not status:  # so the SDK tells of a failed TLS handshake
            return KubeflowError(f"{self.host}: {_one_line(str(error.reason))}{tls_hint(str(error.reason))}")
        hint = ""
        if status == 401:
            hint = f"; the token is missing, wrong or expired: give --token-file or {TOKEN}"
        elif status == 403:
            hint = f"; may the account of this token do this in namespace {self.namespace} (--namespace)?"
        elif status in {404, 405}:
            hint = "; is this the URL of Kubeflow Pipelines (of its API or its UI)?" if not _is_json(error) else ""
        said = refusal(error.body) or _one_line(str(error.reason or "")) or "no reason given"
        return KubeflowError(
            f"{self.host} answered {status}: {said}{hint}",
            status=status,
            transient=status in _TRANSIENT,
            foreign=status in {404, 405} and not _is_json(error),
        )

    def _unreachable(self, error: BaseException) -> KubeflowError:
        cause: BaseException = getattr(error, "reason", None) or error
        if isinstance(cause, http.ResponseError) and "redirect" in str(cause):
            return self._not_kubeflow("it redirects for ever; is there a login in front of it?")
        if isinstance(cause, http.SSLError) or "certificate" in str(cause).lower():
            return KubeflowError(f"{self.host}: {tls_words(cause)}{tls_hint(str(cause))}")
        if isinstance(cause, http.NameResolutionError):
            said = "its name cannot be resolved; is it spelled right, is the VPN on?"
        elif isinstance(cause, http.NewConnectionError) and "refused" in str(cause):
            said = "nothing listens there (connection refused); is port-forwarding on?"
        elif isinstance(cause, http.TimeoutError):
            said = f"no answer in time ({_TIMEOUT[0]} s to connect, {_TIMEOUT[1]} s to answer)"
        elif isinstance(cause, http.LocationValueError | http.LocationParseError):
            return KubeflowError(f"{self.host}: this is no URL; expected such as http://localhost:8080")
        else:
            said = f"the connection dropped ({type(cause).__name__}); is port-forwarding on?"
        return KubeflowError(f"{self.host} does not answer as Kubeflow Pipelines does: {said}", transient=True)


def judge_version(tag: str, package: Path | Iterable[str]) -> str | None:
    """Return what is wrong with a backend's version for a package, or for some features; None: nothing.

    Args:
        tag: what the backend says of itself.
        package: a compiled package, or names of `FEATURES`.
    """
    package = package if isinstance(package, Path) else list(package)
    needed = required_version(package)
    found = parse_version(tag)
    if found is None:
        return (
            f"the backend calls itself {tag or 'nothing'!r}, so it cannot be checked whether it is {needed} or "
            f"newer, which the package needs; an older one {needed.without}"
        )
    missing: Mapping[str, Feature] = lacking(found, package)
    if not missing:
        return None
    return (
        f"the backend is {tag}, and the package needs {needed} or newer ({needed.feature}); an older one "
        f"{FEATURES[needed.feature].without}"
    )


def check_token(text: str, source: str) -> str:
    """Return a token without white space around it.

    Raises:
        ParameterError: it is empty, or cannot be sent in a header.
    """
    token = text.strip()
    if not token:
        raise ParameterError(f"{source}: there is no token in it")
    if re.match(r"bearer\b", token, re.IGNORECASE):
        raise ParameterError(f"{source}: give the token alone, without 'Bearer' before it")
    if not token.isascii() or not token.isprintable() or " " in token:
        raise ParameterError(
            f"{source}: a token is one word of letters, digits and signs; there is a line break, white space or "
            "another character in it"
        )
    return token


def refusal(body: Any) -> str:
    """Return the reason out of a refusal's body, on one line; the API server has two shapes of them."""
    try:
        content = json.loads(body)
    except (ValueError, TypeError):
        return ""
    if not isinstance(content, Mapping):
        return ""
    # Of the upload's handlers, whose details are a stack of Go; and of all others.
    said = content.get("error_message") or content.get("message") or content.get("error_details") or ""
    for detail in content.get("details") or []:
        exact = detail.get("message") if isinstance(detail, Mapping) else None
        if isinstance(exact, str) and exact not in {"", "Internal Server Error"}:
            said = exact
    return _one_line(str(said).split("\n", 1)[0])


def _one_line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]}…"


def _is_json(error: Any) -> bool:
    return bool(refusal(error.body))


def _checked_url(host: str) -> str:
    example = "expected such as http://localhost:8080 or https://kubeflow.example/pipeline"
    try:
        url = urllib3.util.parse_url(host.strip())
    except http.LocationParseError:
        raise ParameterError(f"--host {host!r}: this is no URL; {example}") from None
    if url.scheme not in {"http", "https"} or not url.host:
        shown = repr(host) if "@" not in host else "that is given"  # what stands before an @ may be a password
        raise ParameterError(f"--host {shown}: must begin with http:// or https://; {example}")
    if url.query or url.fragment:
        raise ParameterError(f"--host {host!r}: leave out what stands after `?` or `#`; {example}")
    if url.auth:
        raise ParameterError(f"--host: leave the password out of the URL, and give --token-file; {example}")
    return host.strip().rstrip("/")


def _checked_namespace(namespace: str) -> str:
    if not re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", namespace):
        raise ParameterError(
            f"--namespace {namespace!r}: a namespace has lower-case letters, digits and `-`, such as kubeflow"
        )
    return namespace


def _path_of(variable: str) -> Path | None:
    return Path(os.environ[variable]) if os.environ.get(variable) else None
