"""HTTP/1.1 message framing, sans-IO, for both sides of the relay: the public names.

Reading: a head parser per message, then ``body_decoder(head.framing)`` fed with the parser's ``trailing`` and what
follows; the decoder's own ``trailing`` begins the next message. Writing: heads and chunks.
"""

from __future__ import annotations

from ccrelay.core.http1_body import BodyDecoder, ChunkedDecoder, LengthDecoder, UntilCloseDecoder, body_decoder
from ccrelay.core.http1_framing import CHUNKED, NO_BODY, UNTIL_CLOSE, Framing
from ccrelay.core.http1_grammar import HttpViolation
from ccrelay.core.http1_head import RequestHead, RequestHeadParser, ResponseHead, ResponseHeadParser
from ccrelay.core.http1_write import LAST_CHUNK, encode_chunk, encode_request_head, encode_response_head

__all__ = [
    "CHUNKED",
    "LAST_CHUNK",
    "NO_BODY",
    "UNTIL_CLOSE",
    "BodyDecoder",
    "ChunkedDecoder",
    "Framing",
    "HttpViolation",
    "LengthDecoder",
    "RequestHead",
    "RequestHeadParser",
    "ResponseHead",
    "ResponseHeadParser",
    "UntilCloseDecoder",
    "body_decoder",
    "encode_chunk",
    "encode_request_head",
    "encode_response_head",
]
