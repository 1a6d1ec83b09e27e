"""The units of work: what one call sends up, what comes down, and how many run at once.

The upstream is told what to answer by the model's name, which every proxy passes on inside the body:
``bench-EVENTS-PACE`` with PACE in milliseconds; no events: a small JSON answer.
"""

from __future__ import annotations

from dataclasses import dataclass

EVENT_BYTES = 200  # one content_block_delta with a few words, as Claude Code receives them


@dataclass(frozen=True, slots=True)
class Work:
    """One kind of call.

    body: bytes of the request. events, pace: of the streamed answer, pace in milliseconds (0: as fast as possible).
    at_once: connections, each with one call after the other. calls: in all; quick: the same for a short run.
    per: what the CPU time is divided by, ``call`` or ``event``.
    """

    name: str
    title: str
    body: int
    events: int
    pace: int
    at_once: int
    calls: int
    quick: int
    per: str = "call"

    @property
    def model(self) -> str:
        return f"bench-{self.events}-{self.pace}"


# Enough calls for at least a few tenths of a second of nginx's CPU. 1,000 streams go at 200 ms an event: 5,000 events a
# second are what a load generator and an upstream in Python on one core carry with time to spare.
WORKS = (
    Work("claude", "Claude Code call: 100 KB up, 200 events at 20 ms, 50 at once", 100_000, 200, 20, 50, 100, 50),
    Work(
        "streams", "1,000 streams at once, 100 events at 200 ms, per event", 1_000, 100, 200, 1000, 1000, 1000, "event"
    ),
    Work("burst", "burst: 200 events as fast as they go, 8 at once", 1_000, 200, 0, 8, 400, 80),
    Work("body_1m", "1 MB body, small answer, 4 at once", 1_000_000, 0, 0, 4, 300, 60),
    Work("body_100k", "100 KB body, small answer, 8 at once", 100_000, 0, 0, 8, 1500, 200),
    Work("small", "1 KB body, small answer, 16 at once", 1_000, 0, 0, 16, 5000, 600),
)

BY_NAME = {work.name: work for work in WORKS}
