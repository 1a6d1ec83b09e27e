"""``cc-relay status`` against a real relay's admin listener."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ccrelay.cli import main
from ccrelay.cli.refusal import Refusal
from ccrelay.cli.status import address_of

from .e2e.raw_client import ask, body_for, post
from .e2e.relay_process import Relay, free_port


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_status_tells_of_a_running_relay(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    listen = f"127.0.0.1:{free_port()}" if kind == "tcp" else f"unix:{tmp_path}/admin.sock"
    providers = [{"name": "demo", "type": "simulator"}]
    configuration = {"server": {}, "admin": {"listen": listen}, "providers": providers}
    (tmp_path / "relay.yaml").write_text(json.dumps({**configuration, "server": {"listen": "127.0.0.1:1"}}))
    with Relay(configuration) as relay:
        assert ask(relay.port, post(body_for(stream=False))).status == 200
        relay.next_access_line(0)

        named = main(["status", "--config", str(tmp_path / "relay.yaml")])
        text = capsys.readouterr().out
        asked = main(["status", "--json", "--url", f"http://{listen}" if kind == "tcp" else listen])
        document = json.loads(capsys.readouterr().out)

    assert (named, asked) == (0, 0)
    assert ": ok, " in text
    assert "1 calls, 1 answered" in text
    assert "demo (simulator): usable, circuit closed" in text
    assert document["total"]["calls"] == 1


def test_without_a_relay_it_says_what_to_look_at(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "--url", f"http://127.0.0.1:{free_port()}"]) == 1

    told = capsys.readouterr()
    assert told.out == ""
    assert "admin.listen" in told.err
    assert told.err.count("\n") == 1


def test_a_configuration_without_an_admin_listener_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "relay.yaml").write_text("providers: [{name: demo, type: simulator}]\n")

    assert main(["top", "--config", str(tmp_path / "relay.yaml")]) == 1

    assert f"{tmp_path / 'relay.yaml'}: has no admin.listen" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("endpoint", "address"),
    [
        ("tcp:8788:interface=127.0.0.1", "http://127.0.0.1:8788"),
        (r"tcp:8788:interface=\:\:1", "http://[::1]:8788"),
        ("unix:/run/cc-relay/admin.sock", "unix:/run/cc-relay/admin.sock"),
    ],
)
def test_the_address_follows_from_the_endpoint(endpoint: str, address: str) -> None:
    assert address_of(endpoint) == address


def test_an_endpoint_that_does_not_say_where_is_refused() -> None:
    with pytest.raises(Refusal, match="--url"):
        address_of("systemd:domain=INET:index=0")
