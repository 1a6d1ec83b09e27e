"""An IAgent for a provider that has several addresses, such as a cloud that counts tokens in another region."""

from __future__ import annotations

from collections.abc import Mapping

from twisted.internet.defer import Deferred, fail
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent, IBodyProducer, IResponse
from zope.interface import implementer

from ccrelay.upstream.agent import parsed

Origin = tuple[bytes, bytes, int]
"""Scheme, host and port."""


def origin_of(url: bytes) -> Origin:
    """The origin of an absolute URL. Raises ValueError for a port that is no number."""
    uri = parsed(url)
    return (uri.scheme.lower(), uri.host.lower(), uri.port)


@implementer(IAgent)
class OriginsAgent:
    """Hands each request to the agent of its URL's origin. agents: by origin; no other is ever connected to."""

    def __init__(self, agents: Mapping[Origin, IAgent]) -> None:
        self._agents = agents

    def request(
        self, method: bytes, uri: bytes, headers: Headers | None = None, bodyProducer: IBodyProducer | None = None
    ) -> Deferred[IResponse]:
        """See IAgent. Fails with ValueError for an origin that is not among the agents', else as its agent does."""
        agent = self._agents.get(origin_of(uri))
        if agent is None:
            return fail(ValueError("the URL is of none of the provider's origins"))
        return agent.request(method, uri, headers, bodyProducer)
