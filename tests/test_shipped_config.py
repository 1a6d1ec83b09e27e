"""The configuration that is shipped: it works as it stands, and so does every line that can be switched on."""

from __future__ import annotations

import re
from pathlib import Path

from ccrelay.core.config_schema import config_schema
from tests.config_loading import load_text, settings_of

TEXT = (Path(__file__).resolve().parent.parent / "etc" / "cc-relay.yaml").read_text(encoding="utf-8")
SWITCHED_OFF = re.compile(r"^#(?=(  +)?[^\s#])", re.MULTILINE)
"""The mark of a setting that is switched off: removing it leaves the setting with its indentation."""

TYPES = set(config_schema()["$defs"]["provider"]["properties"]["type"]["enum"])


def everything_on() -> tuple[str, dict[str, str]]:
    text = SWITCHED_OFF.sub("", TEXT)
    return text, {name: f"set-{n}" for n, name in enumerate(re.findall(r"\$\{([A-Z_0-9]+)", text))}


def test_it_loads_without_any_environment() -> None:
    loaded = load_text(TEXT)

    assert loaded.settings.server.listen == ("tcp:8787:interface=127.0.0.1",)
    assert [warning.path for warning in loaded.warnings] == ["providers[0].keys[0].key"]


def test_the_simulator_answers_until_there_is_a_key() -> None:
    anthropic, simulator = load_text(TEXT).settings.providers

    assert (anthropic.type, anthropic.keys[0].secret) == ("anthropic", None)
    assert simulator.simulator is not None
    assert simulator.simulator.only_without_keys


def test_it_takes_the_key_from_the_environment() -> None:
    [anthropic, _] = settings_of(TEXT, {"ANTHROPIC_API_KEY": "sk-1"}).providers

    assert anthropic.keys[0].secret is not None
    assert anthropic.keys[0].secret.reveal() == "sk-1"


def test_every_line_that_is_switched_off_can_be_switched_on() -> None:
    text, environ = everything_on()
    settings = settings_of(text, environ)

    assert {provider.type for provider in settings.providers} == TYPES
    assert settings.server.tls is not None
    assert settings.admin_listen == ("tcp:8788:interface=127.0.0.1",)
    assert settings.server.auth.api_key is not None


def test_each_provider_can_be_switched_on_alone() -> None:
    _, environ = everything_on()
    blocks = re.findall(r"^#  - name: .*\n(?:^#   .*\n)+", TEXT, re.MULTILINE)

    assert len(blocks) == len(TYPES) - 2  # two are on as it stands
    for block in blocks:
        assert len(load_text(TEXT.replace(block, SWITCHED_OFF.sub("", block)), environ).settings.providers) == 3


def test_every_secret_comes_from_the_environment() -> None:
    secrets = re.findall(r"^#? *(?:- )?((?:api_|aws_\w+_)?key(?:_id)?|\w*secret|\w+_token): (.*)$", TEXT, re.MULTILINE)

    assert len(secrets) >= 8
    assert [(name, value) for name, value in secrets if not re.fullmatch(r'"\$\{[A-Z_0-9]+(:-)?\}"', value)] == []
