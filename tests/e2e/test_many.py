"""A thousand streams at once through one process."""

from __future__ import annotations

import hashlib
import json
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e import answers
from tests.e2e.answers import Answer, Text, ToolUse, pace, send
from tests.e2e.raw_client import KEY
from tests.e2e.relay_process import Relay, config, environment, provider
from tests.e2e.upstream_process import Upstream
from tests.e2e.waiting import wait_for

STREAMS = 1000
DESCRIPTORS = 2 * STREAMS + 200
SECONDS = 60


@pytest.fixture
def descriptors() -> Iterator[int]:
    """Let this process and its children hold that many sockets."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < DESCRIPTORS:
        pytest.skip(f"needs {DESCRIPTORS} file descriptors, allowed are {hard}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, DESCRIPTORS), hard))
    yield DESCRIPTORS
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_thousand_streams_at_once_are_all_whole(descriptors: int) -> None:
    """They are truly at once: the upstream sends nobody's second half before it has everybody's request."""
    words = [f"wörd {number} " for number in range(20)]
    made = answers.events([Text(words), ToolUse("toolu_1", "Read", {"file_path": "/tmp/ü" * 9})])
    framed = [answers.chunk(event) for event in made]
    steps = (send(answers.stream_head("chunked") + framed[0]), send(framed[1]), ["gate", "all"])
    answer = Answer((*steps, pace(framed[2:], 0.02), send(answers.LAST_CHUNK), ["end"]))
    digest = hashlib.sha256(b"".join(made)).hexdigest()
    with Upstream() as upstream:
        upstream.route(answer)
        with Relay(config([provider("first", upstream.url)]), descriptors) as relay:
            before = relay.descriptors()
            script = str(Path(__file__).with_name("load.py"))
            command = [sys.executable, script, str(relay.port), str(STREAMS), digest, KEY]
            load = subprocess.Popen(command, env=environment(relay.home), stdout=subprocess.PIPE, text=True)
            try:
                wait_for(lambda: upstream.stats()["complete"] == STREAMS, "every request is at the upstream", SECONDS)
                assert upstream.stats()["open"] == STREAMS
                assert relay.descriptors() >= 2 * STREAMS
                upstream.release("all")
                out, _ = load.communicate(timeout=SECONDS)
            finally:
                load.kill()
                load.wait()
            assert json.loads(out) == {"whole": STREAMS, "others": []}
            lines = wait_for(lambda: (seen := relay.access_lines())[STREAMS - 1 :] and seen, "all access lines")
            assert {line["outcome"] for line in lines} == {"answered"}
            wait_for(lambda: relay.descriptors() < before + STREAMS, "the clients' sockets are closed")
