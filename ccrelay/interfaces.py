"""The contracts that have more than one implementation. Everything else the field has already: IAgent, IBodyProducer,
IPushProducer, IReactorTime, IService.

Arguments of core's types are Any here, as imports go down only: the docstrings name the types, the classes state them.
"""

from __future__ import annotations

from typing import Any

from zope.interface import Attribute, Interface


class IProvider(Interface):
    """One dialect of upstream, configured. Pure: no I/O, no clock; one instance per configured provider."""

    name = Attribute("str: the configured name, unique")
    type = Attribute("str: the registry key, such as ``anthropic``")
    settings = Attribute("ProviderSettings this instance was built from")
    accepts_own_credential = Attribute("bool: may a client's own Anthropic credential be sent to it unchanged")
    needs_key = Attribute("bool: False where an attempt without any credential makes sense")

    region = Attribute("str: the cloud's region it is asked in; empty where there are none")
    family = Attribute("str: whose thinking blocks it can read; equal for upstreams that serve the same models")
    inspects_body = Attribute("bool: prepare() reads the body, so it must be complete; False: it may still be arriving")
    max_body_bytes = Attribute("int | None: the largest request body it takes, None where nobody said")

    def model_for(asked: str) -> str:
        """The upstream's name for the model the client asked for: exact mapping, longest ``prefix*``, else the
        catalogue's name for it at this type of provider, else itself."""

    def mapping_of(asked: str) -> object:
        """As ``model_for``, with who gave the name: a core.mapping.MappedModel."""

    def refusal(call: Any, model: str) -> str | None:
        """Why this provider cannot take the call (one short phrase), or None if it can.

        call: core.model.Call. model: the upstream's name for its model. Called before the body is complete; must only
        look at kind and headers.
        """

    def prepare(call: Any, plan: Any) -> object:
        """What to send for ``call``.

        call: core.model.Call; its body is complete if ``inspects_body``. plan: core.model.AttemptPlan.
        Returns a core.model.UpstreamRequest. Raises ClientError where the client's request cannot be put into this
        upstream's form, whatever the attempt. Touches nothing but its arguments: it may be called in a thread.
        """

    def decoder(head: Any) -> object | None:
        """How to read a successful answer's body.

        head: core.model.Head with a 2xx status. Returns an IStreamDecoder for a stream of events, or None for a
        JSON body that passes as it is. Raises UpstreamError(PROVIDER_ILL) for anything that can be neither.
        """

    def answer_head(head: Any) -> object:
        """The head of a successful answer in Anthropic's terms.

        head: core.model.Head as it came. Returns a Head: what the client's headers are made from.
        """

    def rewrite(call: Any) -> object | None:
        """How a whole JSON answer to ``call`` becomes Anthropic's; None: it passes as it is.

        Returns a callable from bytes to bytes. That raises UpstreamError(PROVIDER_ILL) for what it cannot read.
        """

    def failure(head: Any, body: bytes, own_credential: bool = False, kind: Any = ...) -> object:
        """What an unsuccessful answer means.

        head: core.model.Head, unfiltered; body: all of it, or its first 256 KiB. own_credential: the attempt was made
        with the client's own, so that what the answer tells about the account may be told to the client. kind:
        core.model.CallKind of the call, by default MESSAGES: who cannot count tokens may still answer messages.
        Returns core.failures.Failure: the outcome, and the core.model.Answer the client would get (Anthropic's
        envelope, account identifiers removed), to be kept until it is known whether anyone else answers.
        """


class IStreamDecoder(Interface):
    """Turns an upstream's stream into Anthropic SSE bytes. Sans-IO; not reusable after an error or the end."""

    def receive_data(data: bytes) -> bytes:
        """Take the next bytes, as cut by the network. Returns whole SSE events ready to be written, maybe none.

        Raises StreamViolation if the framing is broken or an event passes the size bound; the caller ends the
        attempt, and every later call raises the same again.
        """

    def receive_eof() -> bytes:
        """The body ended in good order. Returns bytes still owed. Raises StreamViolation if an event was cut."""


class IStrategy(Interface):
    """The order in which a call's candidates are tried. Pure, but for what it remembers of the orders it gave."""

    def order(model: str, candidates: Any, now: float) -> tuple[str, ...]:
        """Whom to try for a call, best first; failover goes on down the order.

        model: what the client asked for, unmapped. candidates: sequence of core.strategies.Standing, names unique,
        those that may be tried now, in the order of the file. now: seconds of one monotonic clock.
        Returns a tuple of names: each candidate once, except where the strategy binds the model to a provider and
        leaves the others out; empty if nobody may be tried. Whoever is first has had its turn: ask once per call.
        Never raises.
        """


class ICredentials(Interface):
    """Where an attempt's secret comes from."""

    def current() -> object:
        """A Deferred that fires with a core.model.Credential, fresh enough to be used now.

        Fails with CredentialError (try another candidate; the message tells the operator what to set).
        Never blocks the reactor. Concurrent callers share one refresh.
        """

    def renew(refused: Any) -> object:
        """The upstream refused ``refused``, a core.model.Credential that ``current()`` gave: expired or revoked.

        A Deferred that fires with another one. Fails with CredentialError where there is none to be had. Callers that
        were refused the same one share one refresh; a caller that comes late gets what the refresh brought.
        """


class IResponseSink(Interface):
    """The client's side of a call, as the relay sees it. Nothing raises when the client has left: writes vanish."""

    gone = Attribute("bool: the client has left; nothing may be attempted for it any more")
    committed = Attribute("bool: the first byte of an answer has been written")

    def when_gone(callback: Any) -> None:
        """Call ``callback()`` once, in the reactor turn in which the client leaves; at once if it has left.

        A later registration replaces the earlier one; None removes it. Not called after a finished answer.
        """

    def respond(answer: Any) -> None:
        """Send a whole core.model.Answer. Only before a commit, once."""

    def begin(status: int, headers: Any) -> None:
        """Commit: write the head of a streamed answer (core.model.Headers, no framing headers)."""

    def write(data: bytes) -> None:
        """Write body bytes. After ``begin``, before ``finish`` or ``abort``."""

    def attach(producer: Any) -> None:
        """Let this IPushProducer be paused while the client reads slowly. ``stopProducing`` is never called."""

    def finish() -> None:
        """End the answer in good order."""

    def abort() -> None:
        """Cut the connection so that the client cannot take what it has for a whole answer."""
