"""TLS on our own listener."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from OpenSSL import SSL
from twisted.internet import ssl
from twisted.protocols.tls import TLSMemoryBIOFactory

from ccrelay.core.settings import TlsSettings


class UnusableTlsFile(Exception):
    """A file of ``server.tls`` cannot be used; the text says which and why, on one line."""


class _ChainContext(ssl.ContextFactory):
    def __init__(self, settings: TlsSettings) -> None:
        self._context = context = SSL.Context(SSL.TLS_METHOD)
        context.set_options(SSL.OP_NO_COMPRESSION)
        context.set_min_proto_version(SSL.TLS1_2_VERSION)
        _use(settings.certificate, context.use_certificate_chain_file, "is not a PEM certificate chain")
        complaint = f"is not the private key of {settings.certificate}, in PEM and without a passphrase"
        _use(settings.private_key, context.use_privatekey_file, complaint)

    def getContext(self) -> SSL.Context:
        return self._context


def _use(path: str, load: Callable[[str], object], complaint: str) -> None:
    """Have OpenSSL load a file. Read first: of one that cannot be, it tells neither name nor reason, and for a key's
    passphrase it would ask on the terminal, where a daemon has nobody to answer.
    """
    try:
        with open(path, "rb") as file:
            locked = b"ENCRYPTED" in file.read()
        if not locked:
            load(path)
            return
    except OSError as error:
        raise UnusableTlsFile(f"{path}: {error.strerror}") from None
    except SSL.Error:
        pass
    raise UnusableTlsFile(f"{path}: {complaint}")


def tls_factory(settings: TlsSettings, factory: Any) -> TLSMemoryBIOFactory:
    """``factory`` behind TLS 1.2 or newer, with the PEM certificate chain and key that ``settings`` names.

    Raises UnusableTlsFile if they cannot be read or do not belong together. Reads files: call it at the start, not
    while serving.
    """
    return TLSMemoryBIOFactory(_ChainContext(settings), False, factory)
