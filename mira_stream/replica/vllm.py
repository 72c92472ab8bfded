"""The client of one vLLM server: chat completions, models, token counts and load, over a shared aiohttp session.

Bodies are ready bytes in and bounded bytes out. Redirects are not followed, compression is not asked for, nothing is
retried here: what went wrong is translated, and `control/` decides.
"""

import asyncio
import base64
import io
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Annotated, Literal

import aiohttp
import msgspec
import yarl

from mira_stream.core.errors import Refusal, Transient, TransientKind
from mira_stream.core.usage import Load, LoadReport, Reply, ServedModel, Usage
from mira_stream.replica.certificates import trusted
from mira_stream.replica.errors import answered, disconnected
from mira_stream.replica.load import REPORT_HEADER, REPORT_WANTED, parse_load, parse_report
from mira_stream.replica.settings import ReplicaSettings
from mira_stream.replica.stream import EventReader, NotAStream, StreamedReply, StreamError, StreamWatch


def open_session(settings: ReplicaSettings | None = None) -> aiohttp.ClientSession:
    """The session that all replicas of a process share; call it in the running loop, close it at the end.

    It has no limit on connections (permits bound what is in flight) and no total timeout (each request has its own).
    Certificates are always verified. Raises Refusal if `ca_file` cannot be read.
    """
    settings = settings or ReplicaSettings()
    connector = aiohttp.TCPConnector(
        ssl=trusted(settings.ca_file),
        limit=0,
        limit_per_host=0,
        keepalive_timeout=settings.keepalive_seconds,
        use_dns_cache=True,
        ttl_dns_cache=settings.dns_seconds,
    )
    return aiohttp.ClientSession(
        connector=connector,
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=settings.connect_timeout_seconds),
        headers={
            "Accept": "application/json",
            "Accept-Encoding": "identity",
            "Content-Type": "application/json",
        },
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        raise_for_status=False,
    )


_Count = Annotated[int, msgspec.Meta(ge=0, le=1 << 40)]


class _Details(msgspec.Struct):
    cached_tokens: _Count | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: _Count
    completion_tokens: _Count
    prompt_tokens_details: _Details | None = None


class _Message(msgspec.Struct, frozen=True):
    content: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None


class _Choice(msgspec.Struct):
    """Of a chat completion, with a message, or of a completion, with a text."""

    message: _Message = _Message()
    text: str | None = None
    finish_reason: str | None = None


class _Completion(msgspec.Struct):
    model: str
    choices: list[_Choice]
    usage: _Usage


class _Model(msgspec.Struct):
    id: str
    max_model_len: _Count | None = None


class _Models(msgspec.Struct):
    data: list[_Model]


class _Tokens(msgspec.Struct):
    count: _Count


_completion = msgspec.json.Decoder(_Completion)
_models = msgspec.json.Decoder(_Models)
_tokens = msgspec.json.Decoder(_Tokens)

_ERROR_BYTES_MAX = 64 << 10
_CHUNK_BYTES = 256 << 10
# Above this size aiohttp warns about raw bytes and wants a file object.
_RAW_BODY_BYTES_MAX = 1 << 20
# A streamed token of four bytes comes in a chunk of some hundred.
_STREAM_OVERHEAD = 200
_IDLE_SLACK = 1.125
# A server that closes an idle connection, or all when it ends, may do so while a request is on its way to it.
_DROPPED_WITHIN_SECONDS = 1.0
# What ends a streamed answer after its last event comes at once, or the connection is not worth the wait.
_END_SECONDS = 1.0


class _Answer(msgspec.Struct):
    """An answer as read: an error's body may be cut short, a 200's is whole."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class VllmReplica:
    """One vLLM server at `base_url`; implements `ports.Replica`.

    Args:
        base_url: `http://host:port`, with or without a path; a trailing `/v1` is ignored. Credentials in it are used
            and never shown.
        session: shared by all replicas, see `open_session`; not closed here.
        api_key: sent as a bearer token.
        mode: what the bodies hold that it is asked: messages, or token ids.
        watch: makes what looks at each streamed reply, and says when the rest need not be waited for.
        settings: time and size limits.
    """

    def __init__(
        self,
        base_url: str,
        session: aiohttp.ClientSession,
        *,
        api_key: str | None = None,
        mode: Literal["chat", "tokens"] = "chat",
        watch: Callable[[], StreamWatch] | None = None,
        settings: ReplicaSettings | None = None,
    ) -> None:
        url = _base(base_url)
        self._url = url.with_user(None)
        self._session = session
        self._mode = mode
        self._watch = watch
        self._ask_url = self._url / ("v1/completions" if mode == "tokens" else "v1/chat/completions")
        self._settings = settings or ReplicaSettings()
        # The time of a whole exchange is the caller's to limit.
        self._ask_timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=self._settings.connect_timeout_seconds
        )
        self._headers = _authorization(url, api_key)
        self._ask_headers = self._headers | (REPORT_WANTED if self._settings.load_reports else {})
        credentials = self._headers.get("Authorization", "").rpartition(" ")[2]
        self._secrets = tuple(secret for secret in (credentials, api_key, url.password) if secret)

    def __repr__(self) -> str:
        return f"VllmReplica({self.name})"

    @property
    def name(self) -> str:
        """Its base URL, without credentials; the metric label."""
        return server_name(str(self._url))

    async def ask(
        self, body: bytes, *, timeout_seconds: float, on_started: Callable[[], None] | None = None
    ) -> Reply:
        """POST one completion, streamed or not as the body says; the latency is that of the whole exchange."""
        started = asyncio.get_running_loop().time()
        answering = False
        try:
            async with asyncio.timeout(timeout_seconds) as patience, self._post(body) as response:
                answering = True
                if response.status != 200:
                    said = await _start_of_body(response)
                    raise answered(self.name, response.status, response.headers, said, self._secrets)
                if response.content_type == "text/event-stream":
                    streamed = await self._stream(response, patience, on_started)
                    return self._streamed_reply(streamed, asyncio.get_running_loop().time() - started)
                report = parse_report(response.headers.get(REPORT_HEADER))
                answer = await self._whole_body(response)
        except (aiohttp.ClientError, OSError) as error:
            passed = asyncio.get_running_loop().time() - started
            dropped = not answering and passed < _DROPPED_WITHIN_SECONDS
            raise disconnected(self.name, error, timeout_seconds=timeout_seconds, dropped=dropped) from error
        latency = asyncio.get_running_loop().time() - started
        try:
            completion = _completion.decode(answer)
        except (msgspec.DecodeError, RecursionError, ValueError) as error:
            raise self._not_understood("a chat completion", why=error) from error
        return self._reply(completion, latency, report)

    async def models(self) -> Sequence[ServedModel]:
        """`/v1/models`."""
        answer = await self._call("GET", "v1/models")
        try:
            listed = _models.decode(answer).data
        except (msgspec.DecodeError, RecursionError, ValueError) as error:
            raise self._not_understood("its list of models") from error
        return [ServedModel(model.id, model.max_model_len) for model in listed]

    async def count(self, body: bytes) -> int:
        """`/tokenize`: prompt tokens of a body with `messages`, chat template included."""
        answer = await self._call("POST", "tokenize", body=body)
        try:
            return _tokens.decode(answer).count
        except (msgspec.DecodeError, RecursionError, ValueError) as error:
            raise self._not_understood("a token count") from error

    async def load(self) -> Load:
        """`/metrics`, read once."""
        answer = await self._call("GET", "metrics")
        load = parse_load(answer.decode("utf-8", "replace"))
        if load is None:
            raise self._not_understood("vLLM's metrics")
        return load

    def _reply(self, completion: _Completion, latency_seconds: float, load: LoadReport | None) -> Reply:
        if not completion.choices:
            raise self._not_understood("a chat completion with a choice")
        choice = completion.choices[0]
        self._check_reason(choice.finish_reason)
        message = choice.message
        # A reasoning parser leaves no content when the thinking took all tokens: an empty reply, not a broken server.
        thought = message.reasoning or message.reasoning_content
        content = choice.text if self._mode == "tokens" else message.content
        if content is None and not thought:
            raise self._not_understood("a chat completion with content")
        usage, details = completion.usage, completion.usage.prompt_tokens_details
        return Reply(
            load=load,
            text=content or "",
            finish_reason=choice.finish_reason,
            usage=Usage(
                usage.prompt_tokens, usage.completion_tokens, details.cached_tokens if details else None
            ),
            model=completion.model,
            latency_seconds=latency_seconds,
        )

    def _post(self, body: bytes) -> aiohttp.client._RequestContextManager:
        data = io.BytesIO(body) if len(body) > _RAW_BODY_BYTES_MAX else body
        return self._session.post(
            self._ask_url,
            data=data,
            headers=self._ask_headers,
            timeout=self._ask_timeout,
            allow_redirects=False,
        )

    async def _stream(
        self,
        response: aiohttp.ClientResponse,
        patience: asyncio.Timeout,
        on_started: Callable[[], None] | None,
    ) -> StreamedReply:
        """Read events until the end, or until no more is needed: then the connection is closed, and the server drops
        the request. `patience` ends when the reply begins: from then on progress counts."""
        reply = StreamedReply(self._watch() if self._watch is not None else None)
        try:
            async with asyncio.timeout(None) as pause:
                async for _ in self._progress(response, reply):
                    if not reply.started:
                        continue
                    if pause.when() is None:
                        patience.reschedule(None)
                        if on_started is not None:
                            on_started()
                    self._wait_on(pause)
        except TimeoutError as error:
            idle = self._settings.idle_seconds
            text = f"{self.name} began its reply and sent no more of it for {idle:.0f} s"
            raise Transient(TransientKind.TIMEOUT, text, 200) from error
        if reply.stopped_early is not None:
            response.close()
        else:
            await _to_the_end(response)
        return reply

    def _wait_on(self, pause: asyncio.Timeout) -> None:
        """There is progress. A timer is set anew every so many pieces only: that costs as much as a piece."""
        now, until, idle = asyncio.get_running_loop().time(), pause.when(), self._settings.idle_seconds
        if until is None or until - now < idle:
            pause.reschedule(now + idle * _IDLE_SLACK)

    async def _progress(self, response: aiohttp.ClientResponse, reply: StreamedReply) -> AsyncIterator[None]:
        """Take in what comes; yields when something of the reply was there, a comment is none."""
        events, size, limit = EventReader(), 0, self._settings.reply_bytes_max
        while received := await response.content.readany():
            size += len(received)
            came = False
            for payload in events.feed(received):
                came = True
                self._take(reply, payload)
                if reply.over:
                    break
            if max(size // _STREAM_OVERHEAD, events.held_bytes, reply.chars) > limit:
                raise self._too_long()
            if came:
                yield
            if reply.over:
                break

    def _take(self, reply: StreamedReply, payload: bytes) -> None:
        try:
            reply.take(payload)
        except StreamError as error:
            # An error after the 200 stands for the answer that would have been given without streaming.
            raise answered(self.name, error.status, {}, error.said, self._secrets) from error
        except NotAStream as error:
            raise self._not_understood("a streamed completion") from error

    def _streamed_reply(self, streamed: StreamedReply, latency_seconds: float) -> Reply:
        reason = streamed.stopped_early or streamed.finish_reason
        if reason is None:
            text = f"{self.name} ended its stream before its reply was complete"
            raise Transient(TransientKind.RESET, text, 200)
        self._check_reason(reason)
        return Reply(
            text=streamed.text,
            finish_reason=reason,
            usage=streamed.cost,
            model=streamed.model,
            latency_seconds=latency_seconds,
            stopped_early=streamed.stopped_early,
        )

    def _check_reason(self, reason: str | None) -> None:
        if reason in ("abort", "error"):
            text = f"{self.name} ended the reply itself (finish reason {reason})"
            raise Transient(TransientKind.SERVER, text, 200)

    def _not_understood(self, expected: str, *, why: Exception | None = None) -> Transient:
        reason = "" if why is None else f" ({why})"
        text = f"{self.name} answered 200 with something that is not {expected}{reason}; check the address and its version"
        return Transient(TransientKind.PROTOCOL, text, 200)

    async def _call(
        self, method: str, path: str, *, body: bytes | None = None, timeout_seconds: float | None = None
    ) -> bytes:
        """The body of the 200 answer; every other end is raised as one of `core.errors`."""
        seconds = timeout_seconds if timeout_seconds is not None else self._settings.lookup_timeout_seconds
        try:
            answer = await self._exchange(method, path, body, seconds)
        except (aiohttp.ClientError, OSError) as error:
            raise disconnected(self.name, error, timeout_seconds=seconds) from error
        if answer.status != 200:
            raise answered(self.name, answer.status, answer.headers, answer.body, self._secrets)
        return answer.body

    async def _exchange(self, method: str, path: str, body: bytes | None, seconds: float) -> _Answer:
        data = io.BytesIO(body) if body is not None and len(body) > _RAW_BODY_BYTES_MAX else body
        timeout = aiohttp.ClientTimeout(total=seconds, sock_connect=self._settings.connect_timeout_seconds)
        async with self._session.request(
            method, self._url / path, data=data, headers=self._headers, timeout=timeout, allow_redirects=False
        ) as response:
            if response.status == 200:
                return _Answer(200, response.headers, await self._whole_body(response))
            return _Answer(response.status, response.headers, await _start_of_body(response))

    async def _whole_body(self, response: aiohttp.ClientResponse) -> bytes:
        limit = self._settings.reply_bytes_max
        body = await _bounded_body(response, limit)
        if len(body) > limit:
            raise self._too_long()
        return body

    def _too_long(self) -> Transient:
        limit = self._settings.reply_bytes_max
        text = f"{self.name} sent an answer of more than {limit:,} bytes; it was dropped"
        return Transient(TransientKind.PROTOCOL, text, 200)


async def _to_the_end(response: aiohttp.ClientResponse) -> None:
    """Read what ends the answer, so that its connection can be used again. The reply is whole: nothing can go wrong."""
    try:
        async with asyncio.timeout(_END_SECONDS):
            while not response.content.at_eof():
                await response.content.readany()
    except (TimeoutError, aiohttp.ClientError):
        response.close()


async def _start_of_body(response: aiohttp.ClientResponse) -> bytes:
    """What an error says, as far as it comes: its status is what counts."""
    try:
        return (await _bounded_body(response, _ERROR_BYTES_MAX))[:_ERROR_BYTES_MAX]
    except aiohttp.ClientPayloadError:
        return b""


async def _bounded_body(response: aiohttp.ClientResponse, limit: int) -> bytes:
    """The body, or at least `limit` + 1 bytes of it; leaving the response unread closes its connection."""
    chunks: list[bytes] = []
    size = 0
    async for chunk in response.content.iter_chunked(_CHUNK_BYTES):
        chunks.append(chunk)
        size += len(chunk)
        if size > limit:
            break
    return b"".join(chunks)


def server_name(base_url: str) -> str:
    """The name of the server at `base_url`, however its address is spelt. Raises Refusal if it is no http(s) URL."""
    return str(_base(base_url).with_user(None)).rstrip("/")


def _base(base_url: str) -> yarl.URL:
    """The server's root. Raises Refusal if it is no http(s) URL."""
    try:
        url = yarl.URL(base_url.strip())
    except ValueError:
        url = yarl.URL()
    if url.scheme not in ("http", "https") or not url.host:
        # The text itself may hold a password, so it is not repeated.
        raise Refusal("a replica's address is not an http(s) URL", "write it as http://host:port")
    path = url.path.rstrip("/").removesuffix("/v1").rstrip("/")
    return url.with_path(path or "/").with_query(None).with_fragment(None)


def _authorization(url: yarl.URL, api_key: str | None) -> dict[str, str]:
    if api_key:
        return {"Authorization": f"Bearer {api_key}"}
    if url.user or url.password:
        pair = f"{url.user or ''}:{url.password or ''}"
        return {"Authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}
    return {}
