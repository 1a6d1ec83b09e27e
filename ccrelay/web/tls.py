"""TLS on our own listener."""

from __future__ import annotations

from typing import Any

from OpenSSL import SSL
from twisted.internet import ssl
from twisted.protocols.tls import TLSMemoryBIOFactory

from ccrelay.core.settings import TlsSettings


class _ChainContext(ssl.ContextFactory):
    def __init__(self, settings: TlsSettings) -> None:
        self._context = context = SSL.Context(SSL.TLS_METHOD)
        context.set_options(SSL.OP_NO_COMPRESSION)
        context.set_min_proto_version(SSL.TLS1_2_VERSION)
        context.use_certificate_chain_file(settings.certificate)
        context.use_privatekey_file(settings.private_key)
        context.check_privatekey()

    def getContext(self) -> SSL.Context:
        return self._context


def tls_factory(settings: TlsSettings, factory: Any) -> TLSMemoryBIOFactory:
    """``factory`` behind TLS 1.2 or newer, with the PEM certificate chain and key that ``settings`` names.

    Raises OpenSSL.SSL.Error if they cannot be read or do not belong together. Reads files: call it at the start, not
    while serving.
    """
    return TLSMemoryBIOFactory(_ChainContext(settings), False, factory)
