"""A reload under load: whoever is being served notices nothing, whoever comes next meets the new configuration."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

from tests.e2e import answers
from tests.e2e.answers import Text
from tests.e2e.crowd import Crowd
from tests.e2e.raw_client import Client, ask, body_for, get, post
from tests.e2e.relay_process import Relay, config, provider
from tests.e2e.upstream_process import Upstream
from tests.e2e.waiting import settled, wait_for

RELOADED, REFUSED = "the configuration is reloaded", "not reloaded, the old configuration stays: "
STREAMS, RELOADS, WARM = 100, 100, 20
GROWTH = 4 << 20
"""Bytes of memory that eighty reloads may leave behind. A runtime with its TLS trust is 240 kB, measured: forty good
ones would be more than twice this if nobody let go of them."""

HELD = answers.events([Text(["first", "second"])])


class Editor:
    """Writes a relay's configuration and tells it so. ``bad``: one that has two mistakes."""

    def __init__(self, relay: Relay, made: dict[str, Any]) -> None:
        self.relay = relay
        self.path = relay.home / "relay.yaml"
        self.made = {**made, "server": {**made["server"], "listen": f"127.0.0.1:{relay.port}"}}
        self.bad = {**self.made, "no_such_section": {}, "routing": {"strategy": "at random"}}

    def write(self, made: dict[str, Any]) -> None:
        """In one step, as an editor or a deployment does."""
        beside = self.path.with_name("new")
        beside.write_text(json.dumps(made))
        beside.replace(self.path)

    def told(self) -> int:
        """How many reloads the log speaks of, good or bad."""
        said = self.relay.output()
        return said.count(RELOADED) + said.count("no_such_section")

    def reload(self, made: dict[str, Any]) -> None:
        before = self.told()
        self.write(made)
        self.relay.process.send_signal(signal.SIGHUP)
        wait_for(lambda: self.told() > before, "the reload is over")


def models(relay: Relay) -> list[str]:
    return [entry["id"] for entry in ask(relay.port, get("/v1/models"), "GET").json["data"]]


def test_a_stream_ends_where_it_began_and_the_next_call_goes_elsewhere(upstream: Upstream, second: Upstream) -> None:
    upstream.queue(answers.held(HELD[:3], "rest", HELD[3:]))
    second.route(answers.conversation([Text(["elsewhere"])]))
    made = config([provider("first", upstream.url)])
    with Relay(made) as relay, Client(relay.port) as client:
        client.send(post(body_for()))
        incoming = client.opened()
        seen = incoming.until(b'"first"}}\n\n')
        editor = Editor(relay, made)
        editor.reload({**editor.made, "providers": [provider("other", second.url)]})
        assert b"elsewhere" in ask(relay.port, post(body_for())).body
        upstream.release("rest")
        rest = incoming.reply()
        assert (seen + rest.body, rest.ending) == (b"".join(HELD), "complete")
        client.send(post(body_for()))  # on the connection of before the reload
        assert b"elsewhere" in client.reply().body
    assert len(upstream.requests()) == 1


def test_a_bad_file_is_told_with_every_mistake_and_changes_nothing(upstream: Upstream) -> None:
    upstream.route(answers.conversation([Text(["as before"])]))
    made = config([provider("first", upstream.url)])
    with Relay(made) as relay:
        editor = Editor(relay, made)
        editor.reload(editor.bad)
        lines = [line for line in relay.output().splitlines() if REFUSED in line]
        assert [
            word for word in ("no_such_section", "routing.strategy") if sum(word in line for line in lines) != 1
        ] == []
        assert b"as before" in ask(relay.port, post(body_for())).body
        editor.reload(editor.made)
        assert b"as before" in ask(relay.port, post(body_for())).body


def test_an_edited_file_and_a_swapped_link_are_noticed_without_a_signal(upstream: Upstream) -> None:
    made = config([provider("first", upstream.url, models=["model-1"])])
    with Relay(made) as relay:
        editor = Editor(relay, made)

        def version(number: int) -> dict[str, Any]:
            return {**editor.made, "providers": [provider("first", upstream.url, models=[f"model-{number}"])]}

        editor.write(version(2))
        wait_for(lambda: models(relay) == ["model-2"], "the edited file is in force")
        for number in (3, 4):  # as a Kubernetes volume: the file is a link into a folder that is a link
            (relay.home / f"v{number}").mkdir()
            (relay.home / f"v{number}" / "relay.yaml").write_text(json.dumps(version(number)))
        link(relay.home / "..data", "v3")
        link(editor.path, "..data/relay.yaml")
        wait_for(lambda: models(relay) == ["model-3"], "the linked file is in force")
        link(relay.home / "..data", "v4")
        wait_for(lambda: models(relay) == ["model-4"], "the other linked file is in force")
        assert relay.output().count(RELOADED) == 3


def link(path: Path, target: str) -> None:
    beside = path.with_name("link")
    beside.symlink_to(target)
    beside.replace(path)


def test_a_hundred_reloads_under_a_hundred_streams_leave_no_trace(upstream: Upstream) -> None:
    upstream.route(answers.held(HELD[:3], "rest", HELD[3:]))
    distant = provider("distant", "https://127.0.0.1:9", priority=0)  # never asked, but each runtime has trust for it
    made = config([provider("first", upstream.url, priority=2), distant])
    with Relay(made) as relay, Crowd(relay.port) as crowd:
        editor = Editor(relay, made)
        asked = crowd.ask(post(body_for()) for _ in range(STREAMS))
        wait_for(lambda: asked.began == STREAMS, "every stream has begun")
        for number in range(RELOADS):
            if number == WARM:
                descriptors, memory = relay.descriptors(), relay.resident()
            editor.reload(editor.bad if number % 2 else editor.made)
        assert relay.output().count(RELOADED) == RELOADS / 2
        assert relay.descriptors() <= descriptors
        assert relay.resident() < memory + GROWTH
        upstream.release("rest")
        replies = asked.replies()
        assert {(reply.status, reply.ending, reply.body) for reply in replies} == {(200, "complete", b"".join(HELD))}
        wait_for(lambda: relay.descriptors() < STREAMS, "the sockets of the streams are closed")


def test_the_log_changes_with_the_configuration_and_is_opened_anew_on_sigusr1(upstream: Upstream) -> None:
    upstream.route(answers.conversation([Text(["hello"])]))
    made = config([provider("first", upstream.url)])
    with Relay(made) as relay:
        editor = Editor(relay, made)
        place = relay.home / "relay.log"
        editor.write({**editor.made, "logging": {"level": "warn", "format": "text", "output": str(place)}})
        relay.process.send_signal(signal.SIGHUP)
        wait_for(place.exists, "the log goes to its file")
        assert ask(relay.port, post(body_for())).status == 200
        assert place.read_text() == ""  # neither an access line nor that of the reload: they are information

        editor.write({**editor.made, "logging": {"format": "text", "output": str(place)}})
        relay.process.send_signal(signal.SIGHUP)
        wait_for(lambda: RELOADED in place.read_text(), "the level has changed")
        assert not place.read_text().startswith("{")
        moved = place.rename(relay.home / "relay.log.1")
        relay.process.send_signal(signal.SIGUSR1)
        wait_for(place.exists, "a new file is open")
        old = settled(moved.read_text, 0.2, "nothing more goes to the old file")
        assert ask(relay.port, post(body_for())).status == 200
        wait_for(lambda: "outcome=answered" in place.read_text(), "the access line is in the new file")
        assert moved.read_text() == old
        assert not os.path.samefile(moved, place)
