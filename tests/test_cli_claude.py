"""Claude Code's settings: only what is the relay's changes, and everything comes back."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccrelay.cli import main
from ccrelay.cli.json_text import remove_member, set_member

PEOPLE_WRITE = b"""\
{
    "model" : "opus",   "n": 1.50e3,
    "env": {
        "A": "caf\xc3\xa9 \\u00e9"
    },
    "hooks": {"x": [1,2 , 3]}
}
"""


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    return tmp_path / "settings.json"


def setup_claude(settings: Path, *more: str) -> int:
    return main(["claude", "setup", "--settings", str(settings), *more])


def remove(settings: Path) -> int:
    return main(["claude", "remove", "--settings", str(settings)])


def env_of(settings: Path) -> dict[str, str]:
    found: dict[str, str] = json.loads(settings.read_bytes())["env"]
    return found


def beside(settings: Path) -> set[str]:
    return {path.name for path in settings.parent.iterdir()} - {settings.name}


def test_setup_adds_two_members_and_leaves_every_other_byte(settings: Path) -> None:
    settings.write_bytes(PEOPLE_WRITE)

    assert setup_claude(settings) == 0

    added = (
        b',\n        "ANTHROPIC_BASE_URL": "http://127.0.0.1:8787"'
        b',\n        "ANTHROPIC_AUTH_TOKEN": "managed-by-cc-relay"'
    )
    assert settings.read_bytes() == PEOPLE_WRITE.replace(b'\\u00e9"', b'\\u00e9"' + added)


@pytest.mark.parametrize(
    "before",
    [
        PEOPLE_WRITE,
        b"{}",
        b'{"env":{}}',
        b'{"env": {"ANTHROPIC_BASE_URL": "https://mine", "ANTHROPIC_AUTH_TOKEN":"tok", "Z": "1"}}',
        b'{"env": {"ANTHROPIC_AUTH_TOKEN": "tok"}, "other": null}\n',
    ],
)
def test_remove_gives_back_what_was_there_byte_for_byte(settings: Path, before: bytes) -> None:
    settings.write_bytes(before)
    settings.chmod(0o640)

    setup_claude(settings)
    assert stat.S_IMODE(settings.stat().st_mode) == 0o640
    assert env_of(settings)["ANTHROPIC_AUTH_TOKEN"] == "managed-by-cc-relay"
    setup_claude(settings, "--base-url", "https://relay.example.com/", "--token", "abc")
    assert env_of(settings)["ANTHROPIC_BASE_URL"] == "https://relay.example.com"
    assert env_of(settings)["ANTHROPIC_AUTH_TOKEN"] == "abc"
    assert remove(settings) == 0

    assert json.loads(settings.read_bytes()) == json.loads(before)
    if before != b"{}" and b"{}" not in before:
        assert settings.read_bytes() == before
        assert beside(settings) == set()
    assert stat.S_IMODE(settings.stat().st_mode) == 0o640


def test_settings_that_were_not_there_are_gone_again(settings: Path) -> None:
    assert setup_claude(settings) == 0
    assert stat.S_IMODE(settings.stat().st_mode) == 0o600

    assert remove(settings) == 0

    assert not settings.exists()
    assert beside(settings) == set()


def test_a_value_that_somebody_changed_since_stays(settings: Path, capsys: pytest.CaptureFixture[str]) -> None:
    setup_claude(settings)
    settings.write_bytes(settings.read_bytes().replace(b"http://127.0.0.1:8787", b"https://elsewhere"))

    remove(settings)

    assert env_of(settings) == {"ANTHROPIC_BASE_URL": "https://elsewhere"}
    assert "ANTHROPIC_BASE_URL was changed since" in capsys.readouterr().out


def test_setting_up_again_after_such_a_change_remembers_the_changed_value(settings: Path) -> None:
    settings.write_bytes(b'{"env": {"ANTHROPIC_BASE_URL": "https://first"}}')
    setup_claude(settings)
    settings.write_bytes(settings.read_bytes().replace(b"http://127.0.0.1:8787", b"https://second"))
    setup_claude(settings)

    remove(settings)

    assert env_of(settings) == {"ANTHROPIC_BASE_URL": "https://second"}


def test_keeping_the_login_sets_no_token_and_takes_an_earlier_one_back(settings: Path) -> None:
    settings.write_bytes(b'{"env": {"ANTHROPIC_AUTH_TOKEN": "mine"}}')
    setup_claude(settings)

    assert setup_claude(settings, "--keep-login") == 0
    assert env_of(settings)["ANTHROPIC_AUTH_TOKEN"] == "mine"
    remove(settings)

    assert json.loads(settings.read_bytes()) == {"env": {"ANTHROPIC_AUTH_TOKEN": "mine"}}


def test_a_link_stays_a_link(settings: Path, tmp_path: Path) -> None:
    real = tmp_path / "dotfiles" / "claude.json"
    real.parent.mkdir()
    real.write_bytes(PEOPLE_WRITE)
    settings.symlink_to(real)

    setup_claude(settings)

    assert settings.is_symlink()
    assert env_of(real)["ANTHROPIC_BASE_URL"] == "http://127.0.0.1:8787"


def test_the_backup_is_the_file_as_it_was_and_its_owners_alone(settings: Path) -> None:
    settings.write_bytes(PEOPLE_WRITE)
    settings.chmod(0o644)

    setup_claude(settings)
    setup_claude(settings, "--token", "other")

    backup = settings.with_name("settings.json.before-cc-relay")
    assert backup.read_bytes() == PEOPLE_WRITE
    assert stat.S_IMODE(backup.stat().st_mode) == 0o600
    assert stat.S_IMODE(settings.with_name("settings.json.cc-relay").stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b'{\n  "a": 1,\n  // comment\n}', "is not JSON (line 3, column 3"),
        (b"", "is not JSON"),
        (b"[]", "does not hold a JSON object"),
        (b'{"env": [1]}', "env is not an object"),
        (b'{"a": NaN}', "is not JSON"),
        (b'{"a": "\xff"}', "is not JSON in UTF-8"),
        (b"[" * 200_000, "is not JSON"),
    ],
)
def test_what_is_no_settings_file_is_refused_and_not_touched(
    settings: Path, content: bytes, complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    settings.write_bytes(content)

    assert setup_claude(settings) == 1

    assert complaint in capsys.readouterr().err
    assert settings.read_bytes() == content
    assert beside(settings) == set()


@pytest.mark.parametrize("url", ["127.0.0.1:8787", "ftp://x", "http://", "http://me:pw@x", "http://127.0.0.1:8787/v1"])
def test_an_address_that_cannot_work_is_refused(settings: Path, url: str) -> None:
    assert setup_claude(settings, "--base-url", url) == 1

    assert not settings.exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_told(settings: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings.write_bytes(PEOPLE_WRITE)
    settings.parent.chmod(0o500)

    assert setup_claude(settings) == 1

    settings.parent.chmod(0o700)
    assert "cannot be written" in capsys.readouterr().err
    assert settings.read_bytes() == PEOPLE_WRITE


def test_the_settings_are_those_of_the_home_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("CLAUDE_CONFIG_DIR", raising=False)

    assert main(["claude", "setup"]) == 0

    assert env_of(tmp_path / ".claude" / "settings.json")["ANTHROPIC_BASE_URL"] == "http://127.0.0.1:8787"


json_values: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(
    tree=st.dictionaries(st.text(max_size=3), json_values, max_size=4),
    env=st.none() | st.dictionaries(st.sampled_from(["A", "B", "KEY"]), st.text(max_size=5), max_size=3),
    value=st.text(max_size=10),
    indent=st.none() | st.integers(0, 4),
    ascii_only=st.booleans(),
)
def test_setting_and_removing_say_the_same_as_dicts(
    tree: dict[str, Any], env: dict[str, str] | None, value: str, indent: int | None, ascii_only: bool
) -> None:
    tree = {name: inner for name, inner in tree.items() if name != "env"}
    if env is not None:
        tree["env"] = env
    data = json.dumps(tree, indent=indent, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")

    changed = set_member(data, ("env", "KEY"), value)
    expected = {**tree, "env": {**(env or {}), "KEY": value}}
    assert json.loads(changed.decode("utf-8", "surrogatepass")) == expected

    removed = json.loads(remove_member(changed, ("env", "KEY")).decode("utf-8", "surrogatepass"))
    del expected["env"]["KEY"]
    assert removed == expected
