"""TOML: the same settings, with lines where they can be known."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccrelay.core.config_toml import parse_toml
from tests.config_loading import load_text, problems_of


def problems(text: str) -> list[str]:
    return [str(problem) for problem in parse_toml(text).problems]


@given(st.text(alphabet="ab=.[]{}\"'#\n ,0-1tT:", max_size=60))
def test_any_text_gives_a_tree_or_a_complaint(text: str) -> None:
    document = parse_toml(text)

    assert document.tree is not None or document.problems
    assert all(1 <= line <= text.count("\n") + 1 for line in document.lines.values())


def test_mistakes_have_their_lines() -> None:
    text = """
        [server]
        listen = "127.0.0.1:70000"
        auth.api_key = ""

        [[providers]]
        name = "a"
        type = "zai"
        keys = [
            { key = "${UNSET}" },
        ]

        [[providers]]
        name = "a"
        "typo" = 1
        type = "zai"
        [[providers.keys]]
        key = "x"
        [[providers.keys]]
        priority = 9
        [providers.timeouts]
        idle_ms = "1"
        """

    assert [problem.split(": ")[:2] for problem in problems_of(text, syntax="toml")] == [
        ["line 3", "server.listen"],
        ["line 4", "server.auth.api_key"],
        ["line 9", "providers[0].keys[0].key"],
        ["line 14", "providers[1].name"],
        ["line 15", "providers[1].typo"],
        ["line 19", "providers[1].keys[1].key"],
        ["line 20", "providers[1].keys[1].priority"],
        ["line 22", "providers[1].timeouts.idle_ms"],
    ]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "the file is empty; it needs at least one `[[providers]]`"),
        ("# nothing", "the file is empty; it needs at least one `[[providers]]`"),
        ("a = 1\na = 2\n", "line 2: given twice"),
        ("[a]\n[a]\n", "line 2: this table is already defined"),
        ("a = 1\nb\n", "line 2: a key without `=`"),
        ("a = x\n", "line 1: this value cannot be read: a text needs quotes"),
        (
            "a = 1\nb = [1,\n",
            "line 2: the file ends in the middle of something: is a `[`, a `{` or a quote not closed?",
        ),
        ("a = [1 2]\n", "line 1: a `[` or `{` is not closed properly"),
        ("a = {b = 1\n}\n", "line 1: a `[` or `{` is not closed properly"),
        ('a = "x\n', "line 1: a character that cannot stand here: is a quote not closed?"),
        ("a = 1\nb = 'x\n", "line 2: a quote is not closed"),
        ('a = "C:\\dir"', "line 1: `\\` in double quotes begins an escape sequence: use single quotes"),
        ("a = 1 b = 2", "line 1: nothing can follow here on the line: does a text need quotes?"),
        ("a.b = 1\na.b.c = 2", "line 2: given twice"),
        ("a = inf", "line 1: a: the number must be finite"),
        ("a = " + "9" * 5000, "the file cannot be read: a number is too long, or it is nested too deeply"),
        ("a = " + "[" * 5000, "the file cannot be read: a number is too long, or it is nested too deeply"),
        (".".join("a" * 900) + " = 1", "nested too deeply, or too much of it: no configuration looks like this"),
    ],
)
def test_what_cannot_be_read_is_explained(text: str, problem: str) -> None:
    assert problems(text) == [problem]


def test_dates_are_text_as_in_yaml() -> None:
    text = """
        [[providers]]
        name = "a"
        type = "azure"
        azure_resource_name = "r"
        azure_api_version = 2024-06-01
        keys = [{key = "k"}]
        """
    [provider] = load_text(text, syntax="toml").settings.providers

    assert provider.azure is not None
    assert provider.azure.api_version == "2024-06-01"


def test_texts_of_several_lines_do_not_confuse_the_lines() -> None:
    text = 'a = """\n[b]\nc = 1\n"""\n[b]\nd = 1\n'

    assert parse_toml(text).lines[("a",)] == 1
    assert parse_toml(text).tree == {"a": "[b]\nc = 1\n", "b": {"d": 1}}
