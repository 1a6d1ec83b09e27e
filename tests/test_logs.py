"""Log lines: one each, readable by machine or person, never forged, never fatal, and never with a secret in them."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.logger import ILogObserver, Logger, LogLevel, LogPublisher, globalLogPublisher
from twisted.python.failure import Failure
from zope.interface.verify import verifyObject

from ccrelay import logs
from ccrelay.core.access import AccessRecord, as_json, as_text
from ccrelay.core.outcomes import Outcome
from ccrelay.core.settings import LoggingSettings
from ccrelay.logs import MESSAGE_LENGTH, LineObserver
from ccrelay.providers.base import AnthropicFormat
from ccrelay.upstream.attempt import Attempt
from ccrelay.web.auth import Doorkeeper

from .web_rig import Client, Daemon, get, head, post

LAYOUTS = ["json", "text", "console"]
EVENT = {"log_level": LogLevel.info, "log_time": 784_111_777.25, "log_namespace": "ccrelay.x", "log_format": "hello"}
RECORD = AccessRecord(time=784_111_777.25, request_id="req_1", outcome=Outcome.ANSWERED, duration=0.5, status=200)


def written(event: dict[str, Any], layout: str = "json", level: str = "debug") -> str:
    """What an observer writes for ``event``."""
    stream = io.StringIO()
    LineObserver(stream, layout, level)(event)
    return stream.getvalue()


def failed(error: ValueError) -> Failure:
    try:
        raise error
    except ValueError:
        return Failure()


def test_it_is_a_log_observer() -> None:
    verifyObject(ILogObserver, LineObserver(io.StringIO(), "json", "info"))


# -- layouts


def test_a_json_line_is_an_object_with_a_time_in_utc() -> None:
    assert json.loads(written(EVENT)) == {
        "time": "1994-11-06T08:49:37.250+00:00",
        "level": "info",
        "logger": "ccrelay.x",
        "message": "hello",
    }


def test_text_has_the_date_and_a_console_only_the_time() -> None:
    assert written(EVENT, "text") == "1994-11-06T08:49:37.250+00:00 info [ccrelay.x] hello\n"
    assert written(EVENT, "console") == "08:49:37 info [ccrelay.x] hello\n"


def test_an_access_record_is_its_own_line_in_every_layout() -> None:
    event = {**EVENT, "log_format": "{record}", "record": RECORD}
    assert written(event) == as_json(RECORD) + "\n"
    assert written(event, "text") == written(event, "console") == as_text(RECORD) + "\n"


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_traceback_stays_on_the_line_of_its_message(layout: str) -> None:
    event = {**EVENT, "log_format": "call {id} failed", "id": "req_1", "log_failure": failed(ValueError("two\nlines"))}
    line = written(event, layout)
    assert line.count("\n") == 1
    assert "call req_1 failed" in line
    if layout == "json":
        trace = json.loads(line)["traceback"]
        assert trace.splitlines()[0].startswith("Traceback")
        assert "ValueError: two\nlines" in trace
    else:
        assert "ValueError: two\\nlines" in line


def test_events_of_twisteds_older_log_are_lines_too() -> None:
    stream = io.StringIO()
    observer = LineObserver(stream, "text", "info")
    publisher = LogPublisher(observer)
    publisher({"log_level": LogLevel.info, "log_time": 0.0, "log_format": "{log_text}", "log_text": "legacy"})
    assert stream.getvalue().endswith(" info [-] legacy\n")


# -- levels


@pytest.mark.parametrize(
    ("level", "shown"),
    [
        ("debug", ["debug", "info", "warn", "error", "critical"]),
        ("info", ["info", "warn", "error", "critical"]),
        ("warn", ["warn", "error", "critical"]),
        ("error", ["error", "critical"]),
    ],
)
def test_a_level_shows_itself_and_what_is_worse(level: str, shown: list[str]) -> None:
    stream = io.StringIO()
    log = Logger(namespace="x", observer=LineObserver(stream, "json", level))
    for name in LogLevel.iterconstants():
        log.emit(name, "m")
    assert [json.loads(line)["level"] for line in stream.getvalue().splitlines()] == shown


def test_an_access_line_is_information() -> None:
    assert written({**EVENT, "record": RECORD}, level="info")
    assert written({**EVENT, "record": RECORD}, level="warn") == ""


# -- what a client or an upstream put into a message


@given(st.text(), st.sampled_from(LAYOUTS), st.booleans())
def test_no_text_begins_a_line_of_its_own_or_reaches_the_terminal(text: str, layout: str, in_failure: bool) -> None:
    extra = {"log_failure": failed(ValueError(text))} if in_failure else {}
    line = written({**EVENT, "log_format": "{text}", "text": text, **extra}, layout)
    assert line.endswith("\n")
    body = line[:-1]
    assert body.splitlines() == [body]
    assert all(character == " " or not (ord(character) < 0x20 or 0x7F <= ord(character) < 0xA0) for character in body)


@pytest.mark.parametrize("layout", ["text", "console"])
def test_escapes_are_shown_not_obeyed(layout: str) -> None:
    line = written({**EVENT, "log_format": "{m}", "m": "\x1b[2J\x9b31m red\r\nfake line"}, layout)
    assert line.endswith("\\x1b[2J\\x9b31m red\\r\\nfake line\n")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_line_is_bounded(layout: str) -> None:
    event = {**EVENT, "log_format": "{m}", "m": "x" * 10_000_000, "log_failure": failed(ValueError("y" * 10_000_000))}
    assert len(written(event, layout)) < 3 * MESSAGE_LENGTH


def test_of_a_long_traceback_the_end_is_kept_which_names_the_error() -> None:
    def dig(depth: int) -> None:
        if not depth:
            raise ValueError("at the bottom")
        dig(depth - 1)

    try:
        dig(400)
    except ValueError:
        event = {**EVENT, "log_failure": Failure()}
    assert json.loads(written(event))["traceback"].rstrip().endswith("ValueError: at the bottom")


def test_an_event_that_cannot_be_formatted_is_still_a_line() -> None:
    class Broken:
        def __repr__(self) -> str:
            raise RuntimeError("no")

    assert written({**EVENT, "log_format": "{missing} {broken}", "broken": Broken()}).count("\n") == 1


# -- streams


class Torn(io.StringIO):
    """A stream that fails as told: ``write`` or ``flush``, with that error, until ``error`` is None."""

    def __init__(self, where: str, error: Exception | None) -> None:
        super().__init__()
        self.where = where
        self.error = error

    def write(self, text: str) -> int:
        if self.error is not None and self.where == "write":
            raise self.error
        return super().write(text)

    def flush(self) -> None:
        if self.error is not None and self.where == "flush":
            raise self.error


@pytest.mark.parametrize("where", ["write", "flush"])
@pytest.mark.parametrize("error", [OSError(28, "No space left"), BrokenPipeError(), ValueError("closed file")])
def test_a_broken_stream_raises_nothing_and_may_recover(where: str, error: Exception) -> None:
    stream = Torn(where, error)
    observer = LineObserver(stream, "text", "info")
    observer(EVENT)
    stream.error = None
    observer({**EVENT, "log_format": "again"})
    assert stream.getvalue().endswith("again\n")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_what_an_encoding_lacks_is_escaped_and_the_line_kept(encoding: str) -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding)
    LineObserver(stream, "text", "info")({**EVENT, "log_format": "{m}", "m": "snow \u2603 and half \ud800 a pair"})
    shown = "\u2603" if encoding == "utf-8" else "\\u2603"
    line = raw.getvalue().decode(encoding)
    assert "half \\ud800 a pair\n" in line
    assert shown in line or "\\u2603" in line


def settings(output: str, layout: str | None = None, level: str = "info") -> LoggingSettings:
    return LoggingSettings(level, layout, output, False, False, 1000)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("name", ["stdout", "stderr"])
@pytest.mark.parametrize(
    ("stream", "layout", "begins"),
    [
        (Terminal, None, "08:49:37"),
        (io.StringIO, None, "{"),
        (Terminal, "json", "{"),
        (io.StringIO, "text", "1994"),
        (io.StringIO, "console", "08:49:37"),
    ],
)
def test_a_terminal_gets_the_console_layout_and_anything_else_json(
    monkeypatch: pytest.MonkeyPatch, name: str, stream: Callable[[], Any], layout: str | None, begins: str
) -> None:
    place = stream()
    monkeypatch.setattr(sys, name, place)
    LineObserver.configured(settings(name, layout))(EVENT)
    assert place.getvalue().startswith(begins)


def test_a_file_is_appended_to(tmp_path: Path) -> None:
    path = tmp_path / "relay.log"
    path.write_text("before\n")
    LineObserver.configured(settings(str(path), "text"))(
        {**EVENT, "log_format": "{m}", "m": "half \ud800 a pair ünïcode"}
    )
    before, line = path.read_text(encoding="utf-8").splitlines()
    assert (before, line.endswith("half \\ud800 a pair ünïcode")) == ("before", True)


def test_a_file_that_cannot_be_opened_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="relay"):
        LineObserver.configured(settings(str(tmp_path / "none" / "relay.log")))


def test_the_level_of_the_settings_is_obeyed(monkeypatch: pytest.MonkeyPatch) -> None:
    place = io.StringIO()
    monkeypatch.setattr(logs.sys, "stdout", place)
    LineObserver.configured(settings("stdout", level="error"))(EVENT)
    assert place.getvalue() == ""


# -- secrets

KEYS = {
    "door": "canary-door-1",
    "bearer": "canary-bearer-2",
    "first": "sk-ant-canary-3",
    "second": "sk-ant-canary-4",
    "zai": "zai.canary-5",
    "azure": "canary-azure-6",
    "entra": "canary-entra-7",
    "aws": "canary-aws-8",
    "proxy": "canary-proxy-9",
}
OWN = "sk-ant-oat01-canary-10"
WRONG = "canary-wrong-11"
SECRETS = [*KEYS.values(), OWN, WRONG]

CONFIGURATION = f"""
server:
  listen: 127.0.0.1:1
  auth: {{api_key: {KEYS["door"]}, allow_bearer: true, bearer_secret: {KEYS["bearer"]}, allow_subscription: true}}
routing: {{debug: true, failover_timeout: 60000, max_attempts: 9}}
logging:
  level: debug
  debug_options: {{log_request_body: true, log_response_headers: true, max_body_log_size: 9999}}
providers:
  - {{name: north, type: anthropic, base_url: "http://north.test", priority: 2,
      keys: [{{key: {KEYS["first"]}}}, {{key: {KEYS["second"]}}}]}}
  - {{name: zai, type: zai, keys: [{{key: {KEYS["zai"]}}}], priority: 0}}
  - {{name: blue, type: azure, azure_resource_name: r, keys: [{{key: {KEYS["azure"]}}}], priority: 0}}
  - {{name: entra, type: azure, azure_resource_name: r, azure_tenant_id: t, enabled: false,
      azure_client_id: c, azure_client_secret: {KEYS["entra"]}, priority: 0}}
  - {{name: cloud, type: bedrock, aws_region: us-east-1, aws_access_key_id: {KEYS["aws"]},
      aws_secret_access_key: {KEYS["aws"]}, priority: 0}}
  - {{name: bearer, type: bedrock, aws_region: us-east-1, aws_bearer_token: {KEYS["aws"]}, priority: 0}}
"""
ENVIRON = {"HTTPS_PROXY": f"http://user:{KEYS['proxy']}@nowhere.test:3128"}
CALL = b'{"model":"claude-x","max_tokens":1,"messages":[]}'
KEY = b"X-Api-Key: " + KEYS["door"].encode()
BEARER = b"Authorization: Bearer " + KEYS["bearer"].encode()


def http_answer(status: bytes, body: bytes, *lines: bytes) -> bytes:
    head_lines = b"\r\n".join([b"HTTP/1.1 " + status, b"Content-Type: application/json", *lines])
    return head_lines + b"\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


class Canary:
    """A daemon full of planted secrets, and everything that it shows anybody but its upstreams."""

    def __init__(self) -> None:
        self.streams = {layout: io.StringIO() for layout in LAYOUTS}
        self.observers = [LineObserver(stream, layout, "debug") for layout, stream in self.streams.items()]
        self.clients: list[Client] = []
        self.sent_upstream = b""

    def __enter__(self) -> Self:
        for observer in self.observers:
            globalLogPublisher.addObserver(observer)
        self.daemon = Daemon(CONFIGURATION, ENVIRON)
        return self

    def __exit__(self, *_: object) -> None:
        for observer in self.observers:
            globalLogPublisher.removeObserver(observer)

    def send(self, wire: bytes) -> Client:
        client = self.daemon.connect()
        client.send(wire)
        self.clients.append(client)
        return client

    def call(self, *lines: bytes) -> Client:
        return self.send(post(CALL, *lines))

    def upstream_says(self, answer: Callable[[bytes], bytes] | None) -> bytes:
        """The upstream of the attempt under way answers what that makes of its request; None: it hangs up."""
        origin = self.daemon.origin()
        request = origin.received
        self.sent_upstream += request
        if answer is None:
            origin.leave()
        else:
            origin.send(answer(request))
            origin.lose()
        self.daemon.reactor.advance(0)
        reactor = self.daemon.reactor
        while reactor.lookups and reactor.lookups[0][1] != "north.test":  # the proxy to the others is nowhere
            reactor.resolve()
            reactor.advance(0)
        return request

    def shown(self) -> str:
        runtime = self.daemon.runtime
        things = [
            runtime, runtime.settings, runtime.surface, runtime.surface.doorkeeper, runtime.relay, self.daemon.site,
            *runtime.settings.providers, *runtime.surface.providers(), *(client.protocol for client in self.clients),
        ]  # fmt: skip
        texts = [repr(thing) + str(thing) + f"{thing}" for thing in things]
        texts += [client.received.decode("latin-1") for client in self.clients]
        texts += [stream.getvalue() for stream in self.streams.values()]
        return "\n".join(texts)


def echo(request: bytes) -> bytes:
    """A server that repeats the key it refuses, in its body and in a header."""
    key = next(line for line in request.split(b"\r\n") if b"canary" in line).partition(b": ")[2]
    document = {"type": "error", "error": {"type": "authentication_error", "message": f"bad key {key.decode()}"}}
    return http_answer(b"401 Unauthorized", json.dumps(document).encode(), b"X-Refused: " + key)


def test_no_planted_secret_is_shown_by_any_line_answer_or_repr() -> None:
    with Canary() as canary:
        canary.call(b"Authorization: Basic " + WRONG.encode())
        canary.send(head(b"POST", b"/v1/messages", KEY + b"\0", b"Content-Length: 2"))
        canary.send(post(b"[]", KEY))
        canary.send(get(b"/v1/providers", BEARER) + get(b"/v1/models", KEY))

        good = http_answer(b"200 OK", b'{"type":"message","usage":{"input_tokens":1,"output_tokens":1}}')
        canary.call(KEY)
        canary.upstream_says(lambda _: good)

        canary.call(BEARER)
        canary.upstream_says(echo)
        canary.upstream_says(lambda request: b"garbage " + request)

        canary.call(KEY)
        canary.upstream_says(None)

        canary.call(b"Authorization: Bearer " + OWN.encode())
        canary.upstream_says(lambda _: http_answer(b"429 Too Many", b"{}", b"Retry-After: 1"))

        canary.daemon.pass_time(1000.0)  # a key that was refused rests
        canary.call(KEY)
        canary.upstream_says(echo)
        canary.upstream_says(echo)

        canary.call(KEY).leave()
        canary.daemon.pass_time(1000.0)
        shown = canary.shown()

    statuses = [int(client.received.split()[1]) for client in canary.clients if client.received]
    assert statuses == [401, 400, 400, 200, 200, 401, 502, 429, 401]
    for planted in (KEYS["first"], KEYS["second"], OWN):
        assert planted.encode() in canary.sent_upstream
    assert KEYS["door"].encode() not in canary.sent_upstream
    assert KEYS["bearer"].encode() not in canary.sent_upstream
    assert all("key_dead" in stream.getvalue() for stream in canary.streams.values())
    assert [secret for secret in SECRETS if secret in shown] == []


def test_no_planted_secret_is_logged_with_the_bodies_and_headers_that_were_asked_for() -> None:
    known = [KEYS[name] for name in KEYS if name not in ("entra", "proxy")] + [OWN]  # of a disabled one nothing is read
    prompt = {
        "model": "claude-x",
        "messages": [{"role": "user", "content": f"spoken {' '.join(known)}, posted {ENVIRON['HTTPS_PROXY']}"}],
        "metadata": {"azure_client_secret": KEYS["entra"]},
    }

    def everything(request: bytes) -> bytes:
        cookie = b"Set-Cookie: session=" + WRONG.encode()
        return http_answer(b"200 OK", b'{"type":"message"}', cookie, b"X-Echo: " + " ".join(known).encode())

    with Canary() as canary:
        canary.send(post(json.dumps(prompt).encode(), KEY))
        canary.upstream_says(everything)
        logged = {layout: stream.getvalue() for layout, stream in canary.streams.items()}

    assert canary.clients[0].reply.status == 200
    for text in logged.values():
        assert "spoken" in text and "session" not in text and "x-echo" in text
        assert [secret for secret in SECRETS if secret in text] == []
    lines = [json.loads(line) for line in logged["json"].splitlines()]
    ids = {line["request_id"] for line in lines if "request_id" in line}
    told = [name for line in lines for name in ("request_body", "response_headers") if name in line]
    assert (len(ids), told) == (1, ["request_body", "response_headers"])


def test_no_planted_secret_is_in_the_traceback_of_a_bug(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever a bug strikes, and with whatever of ours in hand."""

    def with_everything_in_hand(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError(f"a bug with {args!r} {kwargs!r}")

    def with_secrets_around(_: Doorkeeper, headers: Any) -> Any:
        raise RuntimeError("a bug among headers")

    bugs: list[tuple[type, str, Callable[..., Any]]] = [
        (AnthropicFormat, "prepare", with_everything_in_hand),
        (AnthropicFormat, "model_for", with_everything_in_hand),
        (Attempt, "run", with_everything_in_hand),
        (Doorkeeper, "admit", with_secrets_around),
    ]
    with Canary() as canary:
        for owner, name, bug in bugs:
            with monkeypatch.context() as broken:
                broken.setattr(owner, name, bug)
                canary.call(KEY)
                canary.call(b"Authorization: Bearer " + OWN.encode())
            assert [client.reply.status for client in canary.clients[-2:]] == [500, 500]
        shown = canary.shown()
    tracebacks = [line for line in canary.streams["json"].getvalue().splitlines() if "traceback" in line]
    assert len(tracebacks) == 2 * len(bugs)
    assert [secret for secret in SECRETS if secret in shown] == []


# -- another configuration, another file


def logging(output: object, **changes: Any) -> LoggingSettings:
    return replace(LoggingSettings("info", "text", str(output), False, False, 0), **changes)


def test_level_layout_and_file_change_with_the_next_line(tmp_path: Path) -> None:
    observer = LineObserver.configured(logging(tmp_path / "a", level="warn"))
    observer(EVENT)
    observer.reconfigure(logging(tmp_path / "a", level="info"))
    observer(EVENT)
    observer.reconfigure(replace(logging(tmp_path / "b"), format="json"))
    observer(EVENT)
    assert (tmp_path / "a").read_text() == written(EVENT, "text")
    assert (tmp_path / "b").read_text() == written(EVENT)
    observer.close()


def test_a_file_that_cannot_be_opened_changes_nothing(tmp_path: Path) -> None:
    observer = LineObserver.configured(logging(tmp_path / "a"))
    changes: list[Any] = [
        lambda: observer.reconfigure(logging(tmp_path / "none" / "b", level="error")),
        observer.reopen,
    ]
    for change in changes:
        (tmp_path / "a").rename(tmp_path / "moved")
        (tmp_path / "a").mkdir()
        with pytest.raises(OSError, match="a" if change == observer.reopen else "none"):
            change()
        observer(EVENT)
        (tmp_path / "a").rmdir()
        (tmp_path / "moved").rename(tmp_path / "a")
    assert (tmp_path / "a").read_text() == 2 * written(EVENT, "text")
    observer.close()


def test_a_file_that_was_moved_away_is_followed_until_it_is_opened_anew(tmp_path: Path) -> None:
    observer = LineObserver.configured(logging(tmp_path / "log"))
    (tmp_path / "log").rename(tmp_path / "log.1")
    observer(EVENT)
    observer.reopen()
    observer({**EVENT, "log_format": "new"})
    assert (tmp_path / "log.1").read_text() == written(EVENT, "text")
    assert (tmp_path / "log").read_text() == written({**EVENT, "log_format": "new"}, "text")
    observer.close()


@pytest.mark.parametrize("output", ["stdout", "stderr"])
def test_the_processs_own_streams_stay_open(tmp_path: Path, capsys: pytest.CaptureFixture[str], output: str) -> None:
    observer = LineObserver.configured(logging(output))
    observer.reopen()
    observer.reconfigure(logging(tmp_path / "a"))
    observer.reconfigure(logging(output))
    observer(EVENT)
    observer.close()
    assert not getattr(sys, output).closed
    assert getattr(capsys.readouterr(), output[3:]) == written(EVENT, "text")
