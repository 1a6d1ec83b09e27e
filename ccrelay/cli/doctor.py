"""``cc-relay doctor``: is every provider there, does it take our keys, and what stands between client and relay."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Final
from urllib.parse import urlsplit

from twisted.internet.task import Clock

from ccrelay.cli.configuration import settings_of
from ccrelay.cli.doctor_checks import (
    FAIL,
    OK,
    SKIP,
    SUSPICIOUS_BODY,
    WARN,
    Finding,
    judge_body,
    judge_count,
    judge_hello,
    judge_models,
    judge_stream,
    redirected,
)
from ccrelay.cli.doctor_http import Arrival, Origin, Reply, Unreachable
from ccrelay.cli.refusal import Refusal
from ccrelay.core.edits import EditedReader
from ccrelay.core.model import AttemptPlan, Call, CallKind, Credential, Head, Headers, Principal, UpstreamRequest
from ccrelay.core.outcomes import UpstreamError
from ccrelay.core.request_body import RequestBody
from ccrelay.core.settings import ProviderSettings
from ccrelay.credentials.static import StaticCredentials
from ccrelay.credentials.threads import CredentialThreads
from ccrelay.errors import ConfigError, StreamViolation
from ccrelay.providers import build
from ccrelay.runtime import credentials_of

_STREAM_PATIENCE: Final = 60.0
"""Seconds without a byte after which a stream of a few tokens is given up."""

_MODEL: Final = "claude-haiku-4-5"
"""Asked for where nothing is listed: the cheapest that every cloud has."""

_BASE: Final[Headers] = ((b"content-type", b"application/json"), (b"anthropic-version", b"2023-06-01"))
_COLOURS: Final = {OK: "32", WARN: "33", FAIL: "31", SKIP: "2"}


def run(arguments: argparse.Namespace) -> int:
    """Print one line for each check. Returns 1 if one of them failed."""
    failed = False
    found = _examine(arguments)
    for finding in found:
        failed = failed or finding.verdict == FAIL
        mark = f"{finding.verdict:<4}"
        if sys.stdout.isatty():
            mark = f"\x1b[{_COLOURS[finding.verdict]}m{mark}\x1b[0m"
        print(f"{mark} {finding.where}: {finding.check}: {finding.text}", flush=True)
    return 1 if failed else 0


def _examine(arguments: argparse.Namespace) -> Iterator[Finding]:
    if arguments.url is None or arguments.config is not None:
        for settings in settings_of(arguments.config).providers:
            if settings.simulator is None:
                yield from examine_provider(settings, arguments.model, spend=arguments.spend)
            else:
                yield Finding(settings.name, "reach", OK, "the simulator is inside the relay")
    if arguments.url is not None:
        token = sys.stdin.readline().strip() if arguments.token == "-" else arguments.token  # noqa: S105
        yield from examine_address(arguments.url.rstrip("/"), token, arguments.model, spend=arguments.spend)


# -- an address of the relay


def examine_address(
    url: str, token: str | None, model: str | None, *, spend: bool, clock: Callable[[], float] = time.monotonic
) -> Iterator[Finding]:
    """What clients meet at ``url``. token: what they present there. Raises Refusal for what is no address."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise Refusal("--url must be an http or https URL")
    origin, path = Origin(url, clock=clock), parts.path
    headers = (*_BASE, *(((b"authorization", f"Bearer {token}".encode()),) if token else ()))
    try:
        hello = origin.ask("HEAD", f"{path}/api/hello")
    except Unreachable as error:
        yield Finding(url, "reach", FAIL, str(error))
        return
    yield redirected(url, "hello", hello) or judge_hello(url, hello)
    try:
        models = origin.ask("GET", f"{path}/v1/models?limit=1000", headers)
    except Unreachable as error:
        yield Finding(url, "models", FAIL, str(error))
        return
    yield redirected(url, "models", models) or judge_models(url, models)
    model = model or _first_model(models)
    checks = (
        (CallKind.COUNT_TOKENS, "count_tokens", _small(model, {}), judge_count),
        (CallKind.MESSAGES, "large body", SUSPICIOUS_BODY, judge_body),
    )
    for kind, check, body, judge in checks:
        try:
            reply = origin.ask("POST", path + kind.value, headers, body)
            yield redirected(url, check, reply) or judge(url, reply)
        except Unreachable as error:
            yield Finding(url, check, FAIL, str(error))
    if not spend and not _only_simulators(origin, path, headers):
        yield Finding(url, "stream", SKIP, "a call would cost tokens; --spend makes one of about 100")
        return
    text = "Count from 1 to 60 in words."  # long enough to last a second
    body = _small(model, {"max_tokens": 100, "stream": True}, text)
    yield from _streamed(url, origin, path + CallKind.MESSAGES.value, headers, body, lambda _: None)


def _only_simulators(origin: Origin, path: str, headers: Headers) -> bool:
    try:
        found = origin.ask("GET", f"{path}/v1/providers", headers).json
        types = {entry["type"] for entry in found["data"]}
    except (Unreachable, TypeError, KeyError):
        return False
    return types == {"simulator"}


def _first_model(models: Reply) -> str:
    try:
        return str(models.json["data"][0]["id"])
    except (TypeError, KeyError, IndexError):
        return _MODEL


def _small(model: str, more: dict[str, Any], text: str = "Hello") -> bytes:
    return json.dumps({"model": model, "messages": [{"role": "user", "content": text}], **more}).encode()


def _streamed(
    where: str, origin: Origin, target: str, headers: Headers, body: bytes, decoder_for: Callable[[Head], Any]
) -> list[Finding]:
    """decoder_for(head): what turns the answer into Anthropic's events; None where it is that already."""
    head, arrivals, events, decoder = Head(0, ()), [], b"", None
    try:
        for part in origin.follow(target, headers, body, _STREAM_PATIENCE):
            if isinstance(part, Arrival):
                arrivals.append(part)
                events += decoder.receive_data(part.data) if decoder is not None else part.data
            else:
                head = part
                decoder = decoder_for(head) if head.status == 200 else None
    except (Unreachable, UpstreamError, StreamViolation) as error:
        return [Finding(where, "stream", FAIL, str(error))]
    return judge_stream(where, head, arrivals, events)


# -- a provider


def examine_provider(settings: ProviderSettings, model: str | None, *, spend: bool) -> Iterator[Finding]:
    """What the relay meets at a provider, asked with its own requests and without the relay."""
    name, provider = settings.name, build(settings)
    base = provider.base_url()
    origin = Origin(base, ca_file=settings.ca_file, proxy=settings.proxy)
    try:
        reply = origin.ask("HEAD", urlsplit(base).path or "/")
    except Unreachable as error:
        yield Finding(name, "reach", FAIL, str(error))
        return
    yield redirected(name, "reach", reply) or Finding(
        name, "reach", OK, f"{base} answers ({reply.status}) in {reply.seconds:.2f} s"
    )
    try:
        known = _known_credentials(settings)
    except ConfigError as error:
        yield Finding(name, "credentials", FAIL, "; ".join(str(problem) for problem in error.problems))
        return
    if not known:
        yield Finding(name, "credentials", SKIP, "fetched by the running relay only; its log tells if that fails")
        return
    asked = model or next(iter(settings.models), _MODEL)
    for key, credential in known.items():
        where = f"{name} {key}".strip()
        counting = _call(CallKind.COUNT_TOKENS, _small(asked, {}))
        if provider.refusal(counting, provider.model_for(asked)) is None:
            yield _counted(where, provider, counting, asked, credential)
        else:
            yield Finding(where, "count_tokens", SKIP, "the provider does not count")
        if spend:
            yield from _spent(where, provider, asked, credential)
        else:
            yield Finding(where, "stream", SKIP, "a call would cost tokens; --spend makes one of a few")


def _known_credentials(settings: ProviderSettings) -> dict[str, Credential]:
    """What need not be fetched, by the key's id."""
    clock: Any = Clock()
    known: dict[str, Credential] = {}
    for key, source in credentials_of(settings, os.environ, CredentialThreads(clock), clock).items():
        if isinstance(source, StaticCredentials):
            source.current().addCallback(partial(known.setdefault, key))
    return known


def _call(kind: CallKind, data: bytes) -> Call:
    body = RequestBody(len(data), 0)
    body.receive_data(data)
    body.receive_eof()
    nobody = Principal("open", "-", b"", own_credential_only=False)
    return Call("doctor", kind, nobody, b"", _BASE, None, None, "-", body)


def _prepared(provider: Any, call: Call, asked: str, credential: Credential) -> tuple[UpstreamRequest, Origin, bytes]:
    plan = AttemptPlan(provider.model_for(asked), call.body.members.find("model"), credential, time.time())  # type: ignore[arg-type]
    request: UpstreamRequest = provider.prepare(call, plan)
    settings = provider.settings
    origin = Origin(request.url.decode("ascii"), ca_file=settings.ca_file, proxy=settings.proxy)
    reader = EditedReader(call.body, request.edits)
    body = b""
    while not reader.at_end:
        body += reader.read(65536)
    return request, origin, body


def _target(request: UpstreamRequest) -> str:
    return "/" + request.url.decode("ascii").split("/", 3)[3]


def _counted(where: str, provider: Any, call: Call, asked: str, credential: Credential) -> Finding:
    request, origin, body = _prepared(provider, call, asked, credential)
    try:
        reply = origin.ask("POST", _target(request), request.headers, body)
    except Unreachable as error:
        return Finding(where, "count_tokens", FAIL, str(error))
    if reply.status == 200:
        return judge_count(where, reply)
    # As the relay judges it: the provider repeats no key, and knows its own error codes.
    failure = provider.failure(reply.head, reply.body)
    verdict = FAIL if reply.status in (401, 403) else WARN
    return Finding(where, "count_tokens", verdict, f"{reply.status}: {failure.reason}")


def _spent(where: str, provider: Any, asked: str, credential: Credential) -> list[Finding]:
    call = _call(CallKind.MESSAGES, _small(asked, {"max_tokens": 16, "stream": True}))
    request, origin, body = _prepared(provider, call, asked, credential)
    return _streamed(where, origin, _target(request), request.headers, body, provider.decoder)
