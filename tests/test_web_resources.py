"""The HTTP surface, row by row of the table in the configuration's documentation."""

from __future__ import annotations

import pytest
from twisted.internet.address import IPv4Address, UNIXAddress

from ccrelay.core.access import REFUSED
from ccrelay.core.listing import ModelEntry
from ccrelay.core.model import CallKind
from ccrelay.core.secret import Secret
from ccrelay.core.settings import AuthSettings
from ccrelay.web.surface import ProviderEntry

from .web_rig import BODY, HEALTH, OK, Web, get, head, post, respond

LOCKED = AuthSettings(Secret("door"), allow_bearer=False, bearer_secret=None, allow_subscription=False,
                      allow_unauthenticated=False)  # fmt: skip
KEY = b"X-Api-Key: door"


# -- paths and methods


@pytest.mark.parametrize(
    ("method", "target", "status"),
    [
        (b"HEAD", b"/", 200),
        (b"HEAD", b"/api/hello", 200),
        (b"GET", b"/health", 200),
        (b"HEAD", b"/health", 200),
        (b"GET", b"/health?verbose=1", 200),
        (b"GET", b"/v1/models", 200),
        (b"GET", b"/v1/models/", 200),
        (b"GET", b"/v1/providers", 200),
        (b"GET", b"/", 405),
        (b"POST", b"/health", 405),
        (b"POST", b"/v1/models", 405),
        (b"DELETE", b"/v1/models/m", 405),
        (b"POST", b"/v1/providers", 405),
        (b"GET", b"/v1/messages", 405),
        (b"GET", b"/v1/messages/count_tokens", 405),
        (b"OPTIONS", b"/v1/messages", 405),
        (b"OPTIONS", b"*", 404),
        (b"GET", b"/v1", 404),
        (b"GET", b"/v1/", 404),
        (b"POST", b"/v1/messages/", 404),
        (b"POST", b"/v1/messages/batches", 404),
        (b"POST", b"//v1/messages", 404),
        (b"POST", b"/v1/./messages", 404),
        (b"POST", b"/V1/messages", 404),
        (b"POST", b"/v1%2Fmessages", 404),
        (b"POST", b"/v1/complete", 404),
        (b"GET", b"/v1/modelsx", 404),
        (b"GET", b"/metrics", 404),
        (b"GET", b"/status", 404),
        (b"GET", b"/%0d%0aevil", 404),
        (b"GET", b"/%ff", 404),
    ],
)
def test_the_surface_is_this_and_nothing_else(method: bytes, target: bytes, status: int) -> None:
    reply = Web().ask(get(target, method=method))
    assert reply.status == status
    if status == 404:
        assert reply.error == "not_found_error"
    if status == 405:
        assert reply.header(b"allow") is not None
        assert method == b"HEAD" or reply.error == "invalid_request_error"


def test_allow_lists_what_a_path_takes() -> None:
    assert Web().ask(get(b"/v1/messages")).header(b"allow") == b"POST"
    assert Web().ask(get(b"/health", method=b"PUT")).header(b"allow") == b"GET, HEAD"


def test_no_answer_lets_web_pages_read_it() -> None:
    replies = [Web().ask(get(target, b"Origin: https://evil.example")) for target in (b"/health", b"/v1/models")]
    assert [name for reply in replies for name, _ in reply.headers if name.startswith(b"access-control")] == []


@pytest.mark.parametrize("target", [b"/", b"/api/hello"])
def test_the_start_up_probe_is_empty(target: bytes) -> None:
    reply = Web(auth=LOCKED).ask(get(target, method=b"HEAD"))
    assert (reply.status, reply.header(b"content-length")) == (200, b"0")


# -- who may


@pytest.mark.parametrize(
    ("wire", "kind"),
    [
        (get(b"/v1/models"), "models"),
        (get(b"/v1/models/m"), "model"),
        (get(b"/v1/providers"), "providers"),
        (post(), "messages"),
        (post(target=b"/v1/messages/count_tokens"), "count_tokens"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_everything_under_v1_asks_for_the_key(wire: bytes, kind: str) -> None:
    reply = Web(auth=LOCKED).ask(wire)
    assert (reply.status, reply.error) == (401, "authentication_error")
    assert reply.header(b"x-should-retry") == b"false"
    opened = Web(respond, auth=LOCKED).ask(wire.replace(b"\r\nHost", b"\r\n" + KEY + b"\r\nHost", 1))
    assert opened.status == (404 if kind == "model" else 200)


def test_health_is_open() -> None:
    assert Web(auth=LOCKED).ask(HEALTH).status == 200


# -- health


def test_health_is_ok_while_a_provider_could_be_asked() -> None:
    assert Web().ask(HEALTH).json == {"status": "ok"}


def test_health_is_503_without_a_usable_provider() -> None:
    web = Web()
    web.usable = False
    reply = web.ask(HEALTH)
    assert (reply.status, reply.json) == (503, {"status": "no usable provider"})
    assert reply.header(b"content-type") == b"application/json"


def test_health_is_503_while_draining() -> None:
    web = Web()
    client = web.connect()
    client.send(HEALTH[:5])
    web.site.drain()
    client.send(HEALTH[5:])
    [reply] = client.replies(b"GET")
    assert (reply.status, reply.json) == (503, {"status": "draining"})


# -- models and providers


def listing(count: int) -> Web:
    web = Web()
    web.list_models(*(ModelEntry(f"m{i}", f"Model {i}", "2026-01-01T00:00:00Z", "zai", "north") for i in range(count)))
    return web


def test_models_are_paged_as_the_api_pages_them() -> None:
    web = listing(5)
    seen: list[str] = []
    after = b""
    while True:
        page = web.ask(get(b"/v1/models?limit=2" + after)).json
        seen += [model["id"] for model in page["data"]]
        assert page["first_id"] == page["data"][0]["id"]
        if not page["has_more"]:
            break
        after = b"&after_id=" + page["last_id"].encode()
    assert seen == ["m0", "m1", "m2", "m3", "m4"]
    back = web.ask(get(b"/v1/models?before_id=m2&limit=1")).json
    assert [model["id"] for model in back["data"]] == ["m1"]


@pytest.mark.parametrize("query", [b"limit=0", b"limit=x", b"limit=", b"after_id=none", b"before_id=none"])
def test_a_page_that_cannot_be_is_400(query: bytes) -> None:
    reply = listing(1).ask(get(b"/v1/models?" + query))
    assert (reply.status, reply.error) == (400, "invalid_request_error")


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("claude-x", b"claude-x"),
        ("zai/glm-4.7", b"zai/glm-4.7"),
        ("zai/glm-4.7", b"zai%2Fglm-4.7"),
        ("a//b", b"a//b"),
        ("mock:latest", b"mock:latest"),
        ("mock:latest", b"mock%3Alatest"),
        ("ünïcode model", "ünïcode%20model".replace("ü", "%C3%BC").replace("ï", "%C3%AF").encode()),
    ],
)
def test_a_model_is_found_by_its_id_whatever_is_in_it(name: str, target: bytes) -> None:
    web = Web()
    web.list_models(ModelEntry(name, "Model", "2026-01-01T00:00:00Z", "zai", "north"))
    reply = web.ask(get(b"/v1/models/" + target))
    assert reply.status == 200
    assert reply.json == {
        "id": name,
        "type": "model",
        "display_name": "Model",
        "created_at": "2026-01-01T00:00:00Z",
        "owned_by": "zai",
        "provider": "north",
    }


def test_an_unknown_model_is_404() -> None:
    reply = listing(1).ask(get(b"/v1/models/m7"))
    assert (reply.status, reply.error) == (404, "not_found_error")


def test_providers_are_listed_with_whether_they_could_be_asked() -> None:
    web = Web()
    web.providers = (
        ProviderEntry("north", "anthropic", ("claude-x", "claude-y"), usable=True, circuit="closed"),
        ProviderEntry("south", "zai", (), usable=False, circuit="half_open"),
    )
    assert web.ask(get(b"/v1/providers")).json == {
        "data": [
            {
                "name": "north",
                "type": "anthropic",
                "models": ["claude-x", "claude-y"],
                "health": "usable",
                "circuit_breaker": "closed",
            },
            {"name": "south", "type": "zai", "models": [], "health": "unusable", "circuit_breaker": "half_open"},
        ]
    }


# -- calls


@pytest.mark.parametrize(
    ("target", "kind"),
    [(b"/v1/messages", CallKind.MESSAGES), (b"/v1/messages/count_tokens", CallKind.COUNT_TOKENS)],
)
def test_a_call_carries_what_the_client_sent_less_its_credentials(target: bytes, kind: CallKind) -> None:
    web = Web(auth=LOCKED)
    lines = (KEY, b"Authorization: Bearer other", b"Cookie: a=b", b"API-Key: azure", b"Anthropic-Beta: one,two",
             b"X-Claude-Code-Session-Id: 11-22", b"User-Agent: claude-cli/2")  # fmt: skip
    client = web.connect(peer=IPv4Address("TCP", "127.0.0.1", 5))
    client.send(post(BODY, *lines, target=target + b"?beta=true&x=%20"))
    call = web.calls[0].call
    assert (call.kind, call.query, call.session, call.peer) == (kind, b"beta=true&x=%20", "11-22", "127.0.0.1")
    assert call.headers == (
        (b"host", b"localhost"),
        (b"anthropic-beta", b"one,two"),
        (b"x-claude-code-session-id", b"11-22"),
        (b"user-agent", b"claude-cli/2"),
        (b"content-length", b"%d" % len(BODY)),
    )
    assert (call.principal.method, call.own_credential) == ("api_key", None)
    assert call.body.complete
    assert call.body.read(0, 1000) == BODY
    assert "door" not in repr(call)


def test_a_clients_own_credential_travels_apart_from_its_headers() -> None:
    own = AuthSettings(None, False, None, allow_subscription=True, allow_unauthenticated=False)
    web = Web(auth=own)
    web.connect().send(post(BODY, b"Authorization: Bearer sk-ant-oat01-own"))
    call = web.calls[0].call
    assert call.own_credential is not None
    assert call.own_credential.value.reveal() == "Bearer sk-ant-oat01-own"
    assert "oat01" not in repr(call)


def test_a_session_id_is_cut_to_a_length_that_bloats_nothing() -> None:
    web = Web()
    web.connect().send(post(BODY, b"X-Claude-Code-Session-Id: " + b"s" * 5000))
    assert web.calls[0].call.session == "s" * 128


def test_a_call_without_a_body_reaches_the_relay_which_knows_what_is_wrong() -> None:
    web = Web()
    web.connect().send(head(b"POST", b"/v1/messages"))
    assert web.calls[0].call.body.error is not None


@pytest.mark.parametrize("encoding", [b"gzip", b"br", b"zstd", b"gzip, identity"])
def test_a_compressed_body_is_415_and_not_waited_for(encoding: bytes) -> None:
    web = Web()
    client = web.connect()
    client.send(head(b"POST", b"/v1/messages", b"Content-Encoding: " + encoding, b"Content-Length: 9",
                     b"Expect: 100-continue"))  # fmt: skip
    reply = client.reply
    assert (reply.status, reply.error, reply.interim) == (415, "invalid_request_error", [])
    assert (web.calls, web.load) == ([], 0)


@pytest.mark.parametrize("encoding", [b"identity", b"Identity", b""])
def test_an_identity_encoding_is_none(encoding: bytes) -> None:
    web = Web()
    web.connect().send(post(BODY, b"Content-Encoding: " + encoding))
    assert len(web.calls) == 1


# -- max_concurrent


def test_calls_above_the_limit_are_sent_away_for_a_second_until_one_ends() -> None:
    web = Web(max_concurrent=2)
    first, second = web.connect(), web.connect()
    first.send(post())
    second.send(post(target=b"/v1/messages/count_tokens"))
    reply = web.ask(post())
    assert (reply.status, reply.error, reply.header(b"retry-after")) == (503, "overloaded_error", b"1")
    assert web.ask(HEALTH).status == 200
    web.calls[0].sink.respond(OK)
    third = web.connect()
    third.send(post())
    assert len(web.calls) == 3
    assert web.ask(post()).status == 503
    second.leave()
    third.leave()
    assert web.load == 0
    web.connect().send(post())
    assert len(web.calls) == 4


def test_a_stream_counts_until_its_end() -> None:
    web = Web(max_concurrent=1)
    web.connect().send(post())
    sink = web.calls[0].sink
    sink.begin(200, ())
    assert web.ask(post()).status == 503
    sink.finish()
    assert web.load == 0


def test_without_a_limit_nobody_is_sent_away() -> None:
    web = Web(max_concurrent=0)
    for _ in range(50):
        web.connect().send(post())
    assert (len(web.calls), web.load) == (50, 50)


# -- what refused calls leave behind


@pytest.mark.parametrize(
    ("status", "wire"),
    [
        (401, post()),
        (405, get(b"/v1/messages", KEY)),
        (413, head(b"POST", b"/v1/messages", KEY, b"Content-Length: 99999999999")),
        (415, post(BODY, KEY, b"Content-Encoding: gzip")),
    ],
)
def test_a_refused_call_leaves_an_access_record(status: int, wire: bytes) -> None:
    web = Web(auth=LOCKED)
    lines = b"\r\nUser-Agent: claude-cli/2\r\nX-Request-ID: mine\r\nHost"
    client = web.connect(peer=IPv4Address("TCP", "127.0.0.7", 5))
    client.send(wire.replace(b"\r\nHost", lines, 1))
    [record] = web.refused
    assert (record.outcome, record.status, record.attempts) == (REFUSED, status, 0)
    assert (record.request_id, record.client, record.user_agent) == ("mine", "127.0.0.7", "claude-cli/2")
    assert record.kind is CallKind.MESSAGES
    [reply] = client.replies(wire.partition(b" ")[0])
    assert record.reason in reply.json["error"]["message"]


def test_a_call_that_is_one_too_many_leaves_a_record_too() -> None:
    web = Web(max_concurrent=1)
    web.connect().send(post())
    client = web.connect(peer=UNIXAddress(None))
    client.send(post(target=b"/v1/messages/count_tokens"))
    [record] = web.refused
    assert (record.status, record.kind, record.client) == (503, CallKind.COUNT_TOKENS, "unix")


def test_what_is_no_call_leaves_none() -> None:
    web = Web(auth=LOCKED)
    for wire in (get(b"/nothing"), get(b"/v1/models"), HEALTH):
        web.ask(wire)
    assert web.refused == []


def test_a_reload_shows_at_once() -> None:
    web = listing(1)
    client = web.connect()
    client.send(get(b"/v1/models"))
    web.list_models()
    client.send(get(b"/v1/models"))
    before, after = client.replies(b"GET", b"GET")
    assert (len(before.json["data"]), after.json["data"]) == (1, [])
