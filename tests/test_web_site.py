"""What every request meets before its resource, and what every answer carries."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress

from ccrelay.web import site as site_module

from .config_loading import SIMULATOR, settings_of
from .web_rig import BODY, HEALTH, Web, get, head, post, respond


def address(host: str) -> Any:
    return IPv6Address("TCP", host, 8787) if ":" in host else IPv4Address("TCP", host, 8787)


def status(host: bytes, local: Any, **server: Any) -> int:
    return Web(**server).ask(head(b"GET", b"/health", host=host), host=local).status


LOOPBACK = ["127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1"]


# -- the Host of a loopback listener


@pytest.mark.parametrize("local", LOOPBACK)
@pytest.mark.parametrize(
    "host",
    [
        b"localhost",
        b"LocalHost:8787",
        b"localhost.",
        b"localhost.:8787",
        b"relay.localhost",
        b"127.0.0.1",
        b"127.0.0.1:8787",
        b"127.9.9.9",
        b"[::1]",
        b"[::1]:8787",
        b"[0:0:0:0:0:0:0:1]",
        b"[::ffff:127.0.0.1]:8787",
        b"",
    ],
)
def test_a_loopback_listener_answers_to_loopback_names(local: str, host: bytes) -> None:
    assert status(host, address(local)) == 200


@pytest.mark.parametrize("local", LOOPBACK)
@pytest.mark.parametrize(
    "host",
    [
        b"evil.example",
        b"evil.example:8787",
        b"localhost.evil.example",
        b"notlocalhost",
        b"127.0.0.1.evil.example",
        b"192.168.1.5:8787",
        b"0.0.0.0",
        b"[::]",
        b"[fe80::1]:8787",
        b"[::ffff:192.168.1.5]",
    ],
)
def test_a_loopback_listener_answers_to_no_other_name(local: str, host: bytes) -> None:
    assert status(host, address(local)) == 403


@pytest.mark.parametrize(
    "local",
    [address("192.168.1.5"), address("2001:db8::1"), address("fe80::1%eth0"), UNIXAddress("/run/relay.sock")],
    ids=str,
)
def test_only_loopback_listeners_look_at_the_host(local: Any) -> None:
    assert status(b"relay.example", local) == 200


def test_further_names_can_be_allowed_whatever_their_case() -> None:
    text = "server: {listen: '127.0.0.1:1', allowed_hosts: [Relay.Example]}\n" + SIMULATOR
    allowed = settings_of(text).server.allowed_hosts
    for host in (b"relay.example", b"RELAY.example:443", b"relay.example.:8787"):
        assert status(host, address("127.0.0.1"), allowed_hosts=allowed) == 200
    assert status(b"other.example", address("127.0.0.1"), allowed_hosts=allowed) == 403


def test_http_1_0_without_a_host_is_served() -> None:
    assert Web().ask(b"GET /health HTTP/1.0\r\n\r\n").status == 200


def test_forwarded_hosts_neither_open_nor_close_the_door() -> None:
    lines = (b"X-Forwarded-Host: localhost", b"Forwarded: host=localhost")
    assert Web().ask(head(b"GET", b"/health", *lines, host=b"evil.example")).status == 403
    assert Web().ask(get(b"/health", b"X-Forwarded-Host: evil.example")).status == 200


def test_the_host_of_an_absolute_target_is_the_one_that_counts() -> None:
    assert Web().ask(head(b"GET", b"http://evil.example/health", host=b"localhost")).status == 403
    assert Web().ask(head(b"GET", b"http://localhost/health", host=b"evil.example")).status == 200


def test_a_wrong_host_is_refused_before_anything_else_happens() -> None:
    web = Web()
    client = web.connect()
    client.send(head(b"POST", b"/v1/messages", b"Content-Length: 9", b"Expect: 100-continue", host=b"evil.example"))
    reply = client.reply
    assert (reply.status, reply.error, reply.interim) == (403, "permission_error", [])
    assert reply.header(b"x-should-retry") == b"false"
    assert "allowed_hosts" in reply.json["error"]["message"]
    assert web.calls == []


# -- what every answer carries

REQUESTS = {
    "health": HEALTH,
    "refused": get(b"/nothing"),
    "method": get(b"/v1/messages"),
    "no request": b"NONSENSE /\r\n\r\n",
    "wrong host": head(b"GET", b"/health", host=b"evil.example"),
    "answered": post(BODY),
}


@pytest.mark.parametrize("wire", REQUESTS.values(), ids=REQUESTS.keys())
def test_every_answer_has_an_id_and_a_date_and_names_no_server(wire: bytes) -> None:
    reply = Web(respond).ask(wire)
    assert len(reply.all(b"x-request-id")) == 1
    assert len(reply.all(b"date")) == 1
    assert reply.all(b"server") == []
    if reply.status >= 400:
        assert reply.error


def test_a_streamed_answer_has_them_too() -> None:
    web = Web(lambda served: served.sink.begin(200, ()))
    reply = web.ask(post(BODY, b"X-Request-ID: mine"))
    assert reply.all(b"x-request-id") == [b"mine"]
    assert len(reply.all(b"date")) == 1
    assert reply.all(b"server") == []


@pytest.mark.parametrize("given_id", [b"a", b"req_0123.ABC:x-y", b"x" * 128])
def test_a_sane_request_id_of_the_client_is_kept(given_id: bytes) -> None:
    web = Web()
    reply = web.ask(get(b"/nothing", b"X-Request-ID: " + given_id))
    assert reply.header(b"x-request-id") == given_id
    assert reply.error == "not_found_error"
    web.connect().send(post(BODY, b"x-request-id: " + given_id))
    assert web.calls[0].call.request_id == given_id.decode()


@pytest.mark.parametrize("given_id", [b"", b"a b", b'"quoted"', b"a\tb", b"x" * 129, b"caf\xc3\xa9", b"a,b", b"%00"])
def test_any_other_request_id_is_replaced(given_id: bytes) -> None:
    web = Web()
    ids = {web.ask(get(b"/nothing", b"X-Request-ID: " + given_id)).header(b"x-request-id") for _ in range(3)}
    assert given_id not in ids
    assert len(ids) == 3


PLAIN = frozenset(b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.:_-")


@given(st.binary(max_size=40).map(lambda value: value.translate(None, b"\r\n")))
def test_no_request_id_can_change_an_answer(value: bytes) -> None:
    reply = Web().ask(get(b"/nothing", b"X-Request-ID: " + value))
    kept = reply.header(b"x-request-id")
    assert reply.error
    assert kept
    assert set(kept) <= PLAIN


def test_the_date_is_the_wall_clocks(monkeypatch: pytest.MonkeyPatch) -> None:
    now = SimpleNamespace(time=lambda: 784_111_777.9)
    monkeypatch.setattr(site_module, "time", now)
    web = Web()
    client = web.connect()
    client.send(HEALTH * 2)
    now.time = lambda: 784_111_778.0
    client.send(HEALTH)
    dates = [reply.header(b"date") for reply in client.replies(b"GET", b"GET", b"GET")]
    assert dates == [b"Sun, 06 Nov 1994 08:49:37 GMT"] * 2 + [b"Sun, 06 Nov 1994 08:49:38 GMT"]


def test_a_request_shows_no_header_in_its_repr() -> None:
    web = Web()
    web.connect().send(post(BODY, b"X-Api-Key: sk-secret"))
    assert "sk-secret" not in repr(web.calls[0].sink._request)


def test_twisted_webs_access_log_and_its_timer_stay_off(capsys: pytest.CaptureFixture[str]) -> None:
    web = Web()
    web.site.doStart()
    assert web.clock.getDelayedCalls() == []
    client = web.connect()
    client.send(HEALTH)
    client.leave()
    web.site.doStop()
    assert capsys.readouterr() == ("", "")
    assert web.ended(client)
