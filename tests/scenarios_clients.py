"""The client's side of a scene: it uploads, reads, stops reading, and leaves."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from ccrelay.core.access import AccessRecord
from ccrelay.core.headers import first
from ccrelay.core.model import Headers
from ccrelay.core.request_body import RequestBody
from ccrelay.errors import BodyTooLarge, RelayError
from ccrelay.web.request import ClientGone

from .fakes import FakeSink

if TYPE_CHECKING:
    from .scenarios import Scene


class Client(FakeSink):
    """A client that makes one call. committed_at, left_at: seconds. pieces: what it got, each with its time."""

    def __init__(self, scene: Scene, call_id: str, length: int | None, limit: int) -> None:
        super().__init__()
        self._scene = scene
        self.id = call_id
        self.upload = RequestBody(length, limit)
        self.committed_at: float | None = None
        self.pieces: list[tuple[float, bytes]] = []
        self.ends = 0
        self.settled = False

    @property
    def record(self) -> AccessRecord:
        """The call's access record."""
        (found,) = (record for record in self._scene.records if record.request_id == self.id)
        return found

    @property
    def view(self) -> tuple[int | None, bytes, str | None]:
        """The status, the body, and how it ended: ``finished``, ``aborted`` or None."""
        return self.status, self.body, self.end

    def header(self, name: bytes) -> bytes | None:
        return first(self.headers, name)

    # -- what it does

    def send(self, data: bytes) -> None:
        """Upload some bytes."""
        with suppress(BodyTooLarge):  # the relay hears of it from the body
            self.upload.receive_data(data)

    def finish_upload(self) -> None:
        self.upload.receive_eof()

    def break_upload(self, error: RelayError) -> None:
        self.upload.fail(error)

    def leave(self) -> None:
        """Close the connection, as the channel tells it."""
        self.gone = True
        if not self.upload.complete:
            self.upload.fail(ClientGone("the client closed its connection"))
        super().leave()

    def stop_reading(self) -> None:
        """Take nothing more for now; the answer's producer hears of it, as from a full socket."""
        if self.producer is not None and self.end is None and not self.gone:
            self.producer.pauseProducing()

    def read_again(self) -> None:
        if self.producer is not None and self.end is None and not self.gone:
            self.producer.resumeProducing()

    # -- what it gets

    def begin(self, status: int, headers: Headers) -> None:
        self.committed_at = self._scene.clock.seconds()
        super().begin(status, headers)

    def write(self, data: bytes) -> None:
        super().write(data)
        self.pieces.append((self._scene.clock.seconds(), data))

    def finish(self) -> None:
        self.ends += 1
        super().finish()

    def abort(self) -> None:
        self.ends += 1
        super().abort()
