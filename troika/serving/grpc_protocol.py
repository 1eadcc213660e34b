"""The KServe protocol, version 2, by gRPC: requests, connections, and what their errors mean."""

import os
import re
from collections.abc import Callable
from typing import Any, NamedTuple
from urllib.parse import SplitResult

import grpc
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from tritonclient.grpc import service_pb2 as messages

from troika.errors import OverloadedError, RequestError, ServerError
from troika.serving.address import is_local, proxy_for
from troika.serving.tensors import Answer, datatype_of, from_bytes, to_bytes
from troika.serving.troubles import (
    UnreadableAnswerError,
    late,
    restricted,
    through,
    unknown_host,
    unreachable,
    unreadable,
)
from troika.serving.wire import OUTPUTS, Rows

_PROXIES = ("grpc_proxy", "https_proxy", "http_proxy")
"""Where gRPC looks for one, in this order."""
_METHODS = {
    "ModelConfig": (messages.ModelConfigRequest, messages.ModelConfigResponse),
    "ModelInfer": (messages.ModelInferRequest, messages.ModelInferResponse),
    "RepositoryIndex": (messages.RepositoryIndexRequest, messages.RepositoryIndexResponse),
}
_LARGEST_MESSAGE = 2**31 - 1
# A connection whose other end has vanished is given up after their sum, if a request waits on it. A Triton with
# its own settings takes two pings in one request before it ends the connection; TritonServer lets it take more.
_KEEPALIVE_MILLISECONDS, _KEEPALIVE_ANSWER_MILLISECONDS = 15_000, 10_000
_FIRST_PAUSE_MILLISECONDS, _LONGEST_PAUSE_MILLISECONDS = 100, 1_000
_CONNECT_MILLISECONDS = 5_000
"""For one try to connect; the request's own deadline holds, too."""
# gRPC has one code for all of these; what is none of them, Triton has said itself.
_UNKNOWN_HOST = re.compile(r"resolv|resolution|lookup", re.IGNORECASE)
_CONNECTION = re.compile(
    r"connect|socket|goaway|keepalive|ping|endpoint|recvmsg|sendmsg|broken pipe|reset by peer|transport|"
    r"stream removed|file descriptor|http2|http1|tcp|hang up|eof",
    re.IGNORECASE,
)


class Request(NamedTuple):
    """One request, and how its answer is read."""

    method: str
    message: Message
    read: Callable[[Any], Any]


def list_models() -> Request:
    """Ask for the names of all models."""
    return Request(
        "RepositoryIndex",
        messages.RepositoryIndexRequest(),
        lambda answer: [model.name for model in answer.models],
    )


def read_config(model: str) -> Request:
    """Ask for a model's configuration."""

    def read(answer: Any) -> Any:
        return MessageToDict(answer, preserving_proto_field_name=True)["config"]

    return Request("ModelConfig", messages.ModelConfigRequest(name=model), read)


def infer(model: str, rows: Rows, seconds: float) -> Request:
    """Ask for images; Triton does not begin what it has not begun after `seconds`."""
    message = messages.ModelInferRequest(model_name=model)
    message.parameters["timeout"].int64_param = int(seconds * 1e6)
    for name, values in rows.items():
        message.inputs.add(name=name, datatype=datatype_of(values), shape=values.shape)
        message.raw_input_contents.append(to_bytes(values))
    for name in OUTPUTS:
        message.outputs.add(name=name)
    return Request("ModelInfer", message, _read_answer)


def _read_answer(answer: Any) -> Answer:
    return Answer(
        {
            output.name: from_bytes(output.datatype, output.shape, content)
            for output, content in zip(answer.outputs, answer.raw_output_contents, strict=True)
        }
    )


class Connection:
    """A channel; any thread may use it."""

    def __init__(self, address: str) -> None:
        self._channel = grpc.insecure_channel(address, options=_options(address))
        self._calls = _calls(self._channel)

    def ask(self, request: Request, seconds: float) -> Any:
        """Return the answer, or raise what `meaning_of` understands."""
        return _read(request, self._calls[request.method](request.message, timeout=seconds))

    def close(self) -> None:
        """End it, and what is under way."""
        self._channel.close()


class AsyncConnection:
    """The same for asyncio."""

    def __init__(self, address: str) -> None:
        self._channel = grpc.aio.insecure_channel(address, options=_options(address))
        self._calls = _calls(self._channel)

    async def ask(self, request: Request, seconds: float) -> Any:
        """Return the answer, or raise what `meaning_of` understands."""
        return _read(request, await self._calls[request.method](request.message, timeout=seconds))

    async def close(self) -> None:
        """End it, and what is under way."""
        await self._channel.close()


def meaning_of(error: BaseException, address: str) -> RequestError | ServerError | None:
    """Return what an error of a connection means; None if it is none of gRPC's."""
    if isinstance(error, TimeoutError):
        return late(address)
    if isinstance(error, UnreadableAnswerError):
        return unreadable(str(error), address)
    if not isinstance(error, grpc.RpcError):
        return None
    code, words = error.code(), error.details() or str(error.code())
    proxied = words + through(_proxy_url(address))
    meaning: RequestError | ServerError = ServerError(f"{address} failed: {words}")
    if code == grpc.StatusCode.INVALID_ARGUMENT:
        meaning = RequestError(f"{address} refused the request: {words}")
    elif code == grpc.StatusCode.DEADLINE_EXCEEDED:
        meaning = late(address)
    elif "restricted" in words:
        meaning = restricted(address)
    elif _UNKNOWN_HOST.search(words) and code == grpc.StatusCode.UNAVAILABLE:
        meaning = unknown_host(proxied, address)
    elif "http2 header with status" in words:
        meaning = unreachable(proxied, address, "grpc")
    elif code == grpc.StatusCode.UNAVAILABLE:
        if _CONNECTION.search(words):
            meaning = unreachable(proxied, address, "grpc")
        else:
            meaning = OverloadedError(f"{address} takes no more requests now: {words}; ask again later")
    return meaning


def _read(request: Request, answer: Any) -> Any:
    try:
        return request.read(answer)
    except (KeyError, ValueError) as error:
        raise UnreadableAnswerError(repr(error)) from None


def _calls(channel: Any) -> dict[str, Any]:
    return {
        method: channel.unary_unary(
            f"/inference.GRPCInferenceService/{method}",
            request_serializer=question.SerializeToString,
            response_deserializer=answer.FromString,
        )
        for method, (question, answer) in _METHODS.items()
    }


def _proxy_url(address: str) -> SplitResult | None:
    name = next((name for name in _PROXIES if os.environ.get(name)), _PROXIES[0])
    given = os.environ.get(name, "")
    url = proxy_for(address, {name: given})
    return url if given.startswith("http://") else None  # gRPC does without any other


def _options(address: str) -> list[tuple[str, int]]:
    _proxy_url(address)  # gRPC's own words on one that is not usable hold parts of its password
    options = [
        ("grpc.max_receive_message_length", _LARGEST_MESSAGE),
        ("grpc.max_send_message_length", _LARGEST_MESSAGE),
        ("grpc.keepalive_time_ms", _KEEPALIVE_MILLISECONDS),
        ("grpc.keepalive_timeout_ms", _KEEPALIVE_ANSWER_MILLISECONDS),
        ("grpc.http2.ping_timeout_ms", _KEEPALIVE_ANSWER_MILLISECONDS),
        ("grpc.http2.max_pings_without_data", 0),  # else the third is sent after a minute only
        ("grpc.initial_reconnect_backoff_ms", _FIRST_PAUSE_MILLISECONDS),
        ("grpc.max_reconnect_backoff_ms", _LONGEST_PAUSE_MILLISECONDS),
        ("grpc.min_reconnect_backoff_ms", _CONNECT_MILLISECONDS),
        # Else a new channel goes on with the connection of the old one, broken or not.
        ("grpc.use_local_subchannel_pool", 1),
    ]
    if is_local(address):
        options.append(("grpc.enable_http_proxy", 0))
    return options
