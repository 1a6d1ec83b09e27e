"""Providers with several addresses: each request goes to the host of its URL, and to no host that is not configured."""

from __future__ import annotations

import pytest
from twisted.internet.task import Clock
from twisted.web.iweb import IAgent
from zope.interface.verify import verifyObject

from ccrelay.upstream.agent import OriginAgent
from ccrelay.upstream.origins import OriginsAgent, origin_of

from .upstream_rig import FakeEndpoint, failure_of, fired
from .web_rig import Daemon, post

CALL = b'{"model":"claude-opus-5-5","max_tokens":1,"messages":[{"role":"user","content":"hi"}]}'
COUNT = b"/v1/messages/count_tokens"
EAST = b"https://us-east5-aiplatform.googleapis.com/v1"
WEST = b"https://europe-west1-aiplatform.googleapis.com/v1"


class Rig:
    """An agent for two origins, each with connections of its own."""

    def __init__(self) -> None:
        clock = Clock()
        self.endpoints = {url: FakeEndpoint(clock) for url in (EAST, WEST)}
        self.agent = OriginsAgent({origin_of(url): OriginAgent(clock, at) for url, at in self.endpoints.items()})

    def connected(self) -> list[bytes]:
        return [url for url, endpoint in self.endpoints.items() if endpoint.made]


def test_it_is_an_agent() -> None:
    verifyObject(IAgent, Rig().agent)


@pytest.mark.parametrize("url", [EAST, WEST])
@pytest.mark.parametrize("path", [b"/projects/p/locations/x", b":443?a=b"])
def test_a_request_goes_to_the_origin_of_its_url_whatever_the_path(url: bytes, path: bytes) -> None:
    rig = Rig()
    target = url.removesuffix(b"/v1") + path if path.startswith(b":") else url + path
    rig.agent.request(b"POST", target).addErrback(lambda _: None)
    assert rig.connected() == [url]
    [connection] = rig.endpoints[url].made
    assert b"\r\nHost: " + url.split(b"/")[2] + b"\r\n" in connection.received


@pytest.mark.parametrize(
    "url",
    [
        b"https://elsewhere.example/v1",
        EAST.replace(b"https", b"http"),
        EAST.replace(b".com", b".com:8443"),
        EAST.replace(b"https://", b"https://europe-west1-aiplatform.googleapis.com@elsewhere.example/"),
    ],
)
def test_no_other_origin_is_ever_connected_to(url: bytes) -> None:
    rig = Rig()
    failure_of(fired(rig.agent.request(b"POST", url)), ValueError)
    assert rig.connected() == []


VERTEX = "name: v, type: vertex, gcp_project_id: p, gcp_region: {}, keys: [{{key: t}}]"


def asked_host(more: str, target: bytes, region: str = "global") -> list[str]:
    """The host names that are looked up for a call."""
    daemon = Daemon("providers: [{" + VERTEX.format(region) + more + "}]")
    daemon.connect().send(post(CALL, target=target))
    return [host for _, host, _ in daemon.reactor.lookups]


def test_counting_has_a_region_and_a_host_of_its_own() -> None:
    apart = ", gcp_count_tokens_region: us-east5"
    assert asked_host(apart, b"/v1/messages") == ["aiplatform.googleapis.com"]
    assert asked_host(apart, COUNT) == ["us-east5-aiplatform.googleapis.com"]
    assert asked_host("", COUNT, region="europe-west1") == ["europe-west1-aiplatform.googleapis.com"]


def test_a_configured_address_serves_both() -> None:
    apart = ", gcp_count_tokens_region: us-east5, base_url: 'https://private.test'"
    assert asked_host(apart, b"/v1/messages") == asked_host(apart, COUNT) == ["private.test"]
