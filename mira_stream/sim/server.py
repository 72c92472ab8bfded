"""vLLM's HTTP surface over a simulated replica."""

import asyncio
import socket
import struct
import time
from collections.abc import Awaitable, Callable
from functools import partial

import msgspec
from aiohttp import hdrs, web

from mira_stream.sim import answers
from mira_stream.sim.answers import CHAT, COMPLETION, Choice, Kind, Usage
from mira_stream.sim.driver import EngineDead, Ticket
from mira_stream.sim.faults import Fault, FaultKind
from mira_stream.sim.intake import Call, read_call
from mira_stream.sim.orca import WANTED, load_headers
from mira_stream.sim.replica import Ending, SimReplica
from mira_stream.sim.request_log import RequestEntry, body_hash
from mira_stream.sim.requests import DetokenizeRequest, TokenizeRequest, check_model, decode, turns
from mira_stream.sim.settings import block_tokens
from mira_stream.sim.stream import Generated, Teller
from mira_stream.sim.tokens import decode as decode_ids
from mira_stream.sim.tokens import encode_chat, encode_text, piece_of
from mira_stream.sim.wire import DEAD, WireError, error, framework_error, planned_error, unauthorized

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]

_JSON = {hdrs.CONTENT_TYPE: "application/json"}
_EVENTS = {hdrs.CONTENT_TYPE: "text/event-stream; charset=utf-8"}
_TEXT = {hdrs.CONTENT_TYPE: "text/plain; version=0.0.4; charset=utf-8"}
_GARBAGE = b"<html><body><h1>It works!</h1></body></html>"


class SimServer:
    """Answers HTTP requests for one replica."""

    def __init__(self, replica: SimReplica) -> None:
        self._replica = replica
        self._settings = replica.settings
        key = replica.settings.api_key
        self._authorization = None if key is None else f"Bearer {key}"
        self._routes: dict[str, tuple[str, Handler]] = {
            "/v1/chat/completions": ("POST", lambda http: self._generation(http, CHAT)),
            "/v1/completions": ("POST", lambda http: self._generation(http, COMPLETION)),
            "/v1/models": ("GET", self._models),
            "/health": ("GET", self._health),
            "/ping": ("GET", self._health),
            "/version": ("GET", self._version),
            "/load": ("GET", self._load),
            "/metrics": ("GET", self._metrics),
            "/tokenize": ("POST", self._tokenize),
            "/detokenize": ("POST", self._detokenize),
        }

    async def handle(self, http: web.BaseRequest) -> web.StreamResponse:
        """Answer one request; errors take the forms that vLLM gives them."""
        try:
            return await self._find(http)(http)
        except WireError as problem:
            return _refusal(problem)
        except EngineDead:
            return _refusal(error(500, DEAD))

    def _find(self, http: web.BaseRequest) -> Handler:
        path = http.path
        if path.startswith("/v1") and self._authorization not in (None, http.headers.get(hdrs.AUTHORIZATION)):
            raise unauthorized()
        route = self._routes.get(path)
        if route is None:
            raise framework_error(404, "Not Found")
        method, handler = route
        if http.method != method:
            raise framework_error(405, "Method Not Allowed")
        return handler

    # Generation.

    async def _generation(self, http: web.BaseRequest, kind: Kind) -> web.StreamResponse:
        """One generation request, from arrival (its body is here) to log entry."""
        replica = self._replica
        body = await http.read()
        began = time.monotonic()
        entry = RequestEntry(number=replica.arrive(), arrived=time.time(), path=http.path)
        try:
            response = await self._answer(http, body, kind=kind, entry=entry)
        except WireError as problem:
            entry.close(problem.status, "refused")
            raise
        except EngineDead:
            entry.close(500, "refused")
            raise
        else:
            entry.close(response.status, "answered")
            return response
        finally:
            entry.seconds = round(time.monotonic() - began, 6)
            replica.leave(entry.outcome)
            replica.log.write(entry)

    async def _answer(
        self, http: web.BaseRequest, body: bytes, *, kind: Kind, entry: RequestEntry
    ) -> web.StreamResponse:
        began = time.monotonic()
        if self._replica.log.wanted:
            entry.body_hash = body_hash(body)
        content_type = http.headers.get(hdrs.CONTENT_TYPE, "")
        call = read_call(body, content_type, kind=kind, settings=self._settings)
        entry.prompt_tokens = call.prompt_tokens
        fault = self._replica.faults.decide(
            entry.number, call.prompts[0].text, now=self._replica.modelled_seconds()
        )
        if fault is not None:
            entry.fault = fault.rule
            spoiled = await self._spoil(http, fault, entry)
            if spoiled is not None:
                return spoiled
        generated, ticket = self._replica.begin(call, follow=bool(call.request.stream))
        try:
            _note(entry, generated)
            if fault is not None and fault.kind is FaultKind.LOST:
                entry.outcome = "faulted"
            if call.request.stream:
                return await self._stream(http, call, generated=generated, ticket=ticket, fault=fault)
            if ticket is not None:
                await ticket.done
        finally:
            if ticket is not None:
                self._replica.withdraw(ticket)
        if fault is not None:
            await self._linger(fault, time.monotonic() - began)
            if fault.kind is FaultKind.LOST:
                return _cut(http)
        return self._whole(http, call, generated)

    async def _spoil(
        self, http: web.BaseRequest, fault: Fault, entry: RequestEntry
    ) -> web.StreamResponse | None:
        """Let a fault act before any work; None if the request goes on."""
        if fault.kind in {FaultKind.SLOW, FaultKind.LOST}:
            return None
        if fault.kind is FaultKind.HANG:
            seconds = fault.seconds
            if seconds is None and fault.until is not None:
                seconds = self._replica.wall_seconds_to(fault.until)
            if seconds is None:
                entry.outcome = "faulted"
            await self._replica.pause(seconds)
            return None
        entry.outcome = "faulted"
        if fault.kind is FaultKind.STATUS:
            raise planned_error(fault.status, fault.seconds)
        if fault.kind is FaultKind.GARBAGE:
            return web.Response(body=_GARBAGE, headers={hdrs.CONTENT_TYPE: "text/html"})
        if fault.kind is FaultKind.CRASH:
            self._replica.end(Ending.CRASHED)
            raise error(500, DEAD)
        if fault.kind is FaultKind.KILL:
            self._replica.end(Ending.KILLED)
        return _cut(http)

    async def _linger(self, fault: Fault, elapsed: float) -> None:
        """A slow answer: take a multiple of the time it took so far, or some seconds more."""
        if fault.kind is FaultKind.SLOW:
            await self._replica.pause((fault.seconds or 0.0) + elapsed * ((fault.factor or 1.0) - 1))

    def _head(self, http: web.BaseRequest, call: Call) -> answers.Head:
        return self._replica.head(call.kind, call.request.request_id or http.headers.get("X-Request-Id"))

    def _whole(self, http: web.BaseRequest, call: Call, generated: list[Generated]) -> web.Response:
        choices = [
            Choice(index, completion.text, completion.finish_reason, completion.stop_reason)
            for index, (completion, _) in enumerate(generated)
        ]
        completion_tokens = sum(one.completion.tokens for one in generated)
        usage = self._usage(call, generated, completion_tokens)
        body = answers.body(self._head(http, call), choices, usage)
        return web.Response(body=body, headers=_JSON | self._load_headers(http))

    def _usage(self, call: Call, generated: list[Generated], completion_tokens: int) -> Usage:
        """What the answer costs with so many completion tokens."""
        if not self._settings.enable_prompt_tokens_details:
            return Usage(call.prompt_tokens, completion_tokens)
        # Of several prompts vLLM tells of the last one.
        cached = generated[-1].sequence.cached_tokens
        size = block_tokens(self._settings)
        cachable = call.prompts[-1].tokens // size * size
        details = answers.prompt_details(call.kind, cached, cachable)
        return Usage(call.prompt_tokens, completion_tokens, details)

    def _load_headers(self, http: web.BaseRequest) -> dict[str, str]:
        return load_headers(http.headers.get(WANTED), self._replica.load_report())

    async def _stream(
        self,
        http: web.BaseRequest,
        call: Call,
        *,
        generated: list[Generated],
        ticket: Ticket | None,
        fault: Fault | None,
    ) -> web.StreamResponse:
        """Tell the answer as it grows. A fault that spoils the end of an answer cuts or delays the end of the stream."""
        began = time.monotonic()
        options = call.request.stream_options
        usage = partial(self._usage, call, generated)
        teller = Teller(self._head(http, call), generated, usage=usage, options=options)
        response = web.StreamResponse(headers=_EVENTS | self._load_headers(http))
        await response.prepare(http)
        try:
            while not teller.ended:
                await _progress(ticket)
                await response.write(b"".join(teller.chunks()))
            if fault is not None:
                await self._linger(fault, time.monotonic() - began)
                if fault.kind is FaultKind.LOST:
                    return _cut(http)
            await response.write(b"".join(teller.closing_chunks()))
        except EngineDead:
            await response.write(answers.death_chunk())
        await response.write(answers.END_OF_STREAM)
        return response

    # The rest of the surface.

    async def _models(self, _: web.BaseRequest) -> web.StreamResponse:
        settings = self._settings
        body = answers.models_body(settings.model, settings.max_model_len, int(self._replica.started))
        return web.Response(body=body, headers=_JSON)

    async def _health(self, _: web.BaseRequest) -> web.StreamResponse:
        return web.Response(status=503 if self._replica.dead else 200)

    async def _version(self, _: web.BaseRequest) -> web.StreamResponse:
        return web.Response(body=answers.version_body(), headers=_JSON)

    async def _load(self, _: web.BaseRequest) -> web.StreamResponse:
        return web.Response(body=b'{"server_load":0}', headers=_JSON)

    async def _metrics(self, _: web.BaseRequest) -> web.StreamResponse:
        return web.Response(body=self._replica.metrics_page(), headers=_TEXT)

    async def _tokenize(self, http: web.BaseRequest) -> web.StreamResponse:
        request = decode(await http.read(), http.headers.get(hdrs.CONTENT_TYPE, ""), TokenizeRequest)
        check_model(request.model, self._settings.model)
        if request.messages is not None:
            conversation = turns(request.messages, self._settings.model)
            tokens = encode_chat(conversation, generation=request.add_generation_prompt)
        else:
            tokens = encode_text(request.prompt or "")
        strings = [piece_of(token).decode(errors="replace") for token in tokens]
        form = {
            "count": len(tokens),
            "max_model_len": self._settings.max_model_len,
            "tokens": tokens,
            "token_strs": strings if request.return_token_strs else None,
        }
        return web.Response(body=msgspec.json.encode(form), headers=_JSON)

    async def _detokenize(self, http: web.BaseRequest) -> web.StreamResponse:
        request = decode(await http.read(), http.headers.get(hdrs.CONTENT_TYPE, ""), DetokenizeRequest)
        check_model(request.model, self._settings.model)
        return web.Response(body=msgspec.json.encode({"prompt": decode_ids(request.tokens)}), headers=_JSON)


async def _progress(ticket: Ticket | None) -> None:
    """Wait for new tokens. Raises EngineDead."""
    if ticket is None:
        return
    assert ticket.progress is not None
    await ticket.progress.wait()
    ticket.progress.clear()
    if ticket.done.done():
        ticket.done.result()


def _note(entry: RequestEntry, generated: list[Generated]) -> None:
    """What the log says about the completions; of several, the first one's record."""
    first = generated[0].completion
    entry.record_hash = first.record_hash
    entry.finish_reason = first.finish_reason
    entry.damage = first.damage
    entry.completion_tokens = sum(one.completion.tokens for one in generated)


def _refusal(problem: WireError) -> web.Response:
    headers = dict(_JSON)
    if problem.retry_after_seconds is not None:
        headers[hdrs.RETRY_AFTER] = f"{problem.retry_after_seconds:g}"
    return web.Response(status=problem.status, body=problem.body, headers=headers)


def _cut(http: web.BaseRequest) -> web.Response:
    """Reset the connection; what is returned never leaves."""
    reset(http.transport)
    return web.Response()


def reset(transport: asyncio.Transport | None) -> None:
    """Close a connection with a TCP reset, as a machine does whose process is gone."""
    if transport is None:
        return
    connection = transport.get_extra_info("socket")
    if connection is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()
