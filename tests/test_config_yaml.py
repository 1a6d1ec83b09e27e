"""YAML: the safe subset, with lines."""

from __future__ import annotations

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from ccrelay.core.config_document import MAX_VALUES
from ccrelay.core.config_yaml import parse_yaml
from tests.config_loading import SIMULATOR, problems_of, settings_of

KEYS = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=8)
LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | KEYS
TREES = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3))


def problems(text: str) -> list[str]:
    return [str(problem) for problem in parse_yaml(text).problems]


@given(st.dictionaries(KEYS, TREES, min_size=1, max_size=4), st.booleans())
def test_a_document_means_what_the_safe_loader_says(tree: dict[str, object], flow: bool) -> None:
    text = yaml.safe_dump(tree, default_flow_style=flow, width=40)

    assert parse_yaml(text).tree == yaml.safe_load(text) == tree


@given(st.text(alphabet="ab:- \n\t#'\"[]{}&*!|>?%@,0.<~", max_size=60))
def test_any_text_gives_a_tree_or_a_complaint(text: str) -> None:
    document = parse_yaml(text)

    assert document.tree is not None or document.problems
    assert all(problem.line is None or 1 <= problem.line <= text.count("\n") + 2 for problem in document.problems)


@given(st.text(alphabet="ab:- \n\t#'\"[]{}&*!|>?%@,0.<~", max_size=60))
def test_what_the_safe_loader_refuses_is_refused(text: str) -> None:
    try:
        tree = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, LookupError, RecursionError):
        tree = None
    document = parse_yaml(text)

    assert isinstance(tree, dict) or document.tree is None or document.problems


def test_every_value_has_its_line() -> None:
    lines = parse_yaml("a:\n  - b: 1\n    c:\n      - x\n      -\n        d: 2\n'e f': >\n  text\n").lines

    assert lines == {
        ("a",): 1,
        ("a", 0): 2,
        ("a", 0, "b"): 2,
        ("a", 0, "c"): 3,
        ("a", 0, "c", 0): 4,
        ("a", 0, "c", 1): 6,
        ("a", 0, "c", 1, "d"): 6,
        ("e f",): 7,
    }


def test_dates_stay_text() -> None:
    assert parse_yaml("a: 2024-06-01\nb: 2024-06-01 10:00:00\nc: =\n").tree == {
        "a": "2024-06-01",
        "b": "2024-06-01 10:00:00",
        "c": "=",
    }


def test_anchors_and_merge_keys_work() -> None:
    text = """
        providers:
          - &base {name: a, type: simulator, priority: 5, simulator: &sim {text: x}}
          - {<<: *base, name: b, simulator: *sim}
          - {<<: [{name: c}, *base], priority: 6}
        """
    found = [(p.name, p.priority, p.simulator.text if p.simulator else None) for p in settings_of(text).providers]

    assert found == [("a", 5, "x"), ("b", 5, "x"), ("c", 6, "x")]


@pytest.mark.parametrize(
    "text", ["a: {<<: 5}", "a: {<<: [x]}", "a: &x {<<: *x}", "a: &x [*x]", "a: &x {b: *x}", "<<: ~"]
)
def test_merges_and_aliases_that_make_no_sense_are_complained_about(text: str) -> None:
    assert len(problems(text)) == 1


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "the file is empty; it needs at least `providers:`"),
        ("# nothing\n---\n", "the file is empty; it needs at least `providers:`"),
        ("~", "the file is empty; it needs at least `providers:`"),
        ("!x", "line 1: the file must be a mapping at the top (`providers:` and so on)"),
        ("- a\n- b\n", "line 1: the file must be a mapping at the top (`providers:` and so on)"),
        ("providers", "line 1: the file must be a mapping at the top (`providers:` and so on)"),
        ("a:\n\tb: 1\n", "line 2: a tab cannot be used here: indent with spaces"),
        (
            "a: 1\nb: c: d\n",
            "line 2: this `:` cannot stand here: is the indentation right, or does a text need quotes?",
        ),
        ("a: 1\n b: 2\n", "line 2: this `:` cannot stand here: is the indentation right, or does a text need quotes?"),
        ("a: 1\nb\nc: 2\n", "line 3: a key without `:`: is a `: ` or a closing quote missing near here?"),
        ("a: 1\nb: 'x\nc: 2\n", "line 2: a quote is opened here and never closed"),
        ('a: "\\d"', "line 1: `\\` in double quotes begins an escape sequence: use single quotes"),
        ("a: @x", "line 1: a text that begins with `@`, `` ` `` or `%` must be in quotes"),
        ("a: *x", "line 1: `*` begins an alias, which is not defined: put a text that begins with `*` in quotes"),
        ("a: 1\n---\nb: 2\n", "line 2: a second document begins here (`---`): a configuration is one document"),
        ("a: 1\nb: [1, 2\nc: 3\n", "line 2: a `[` or `{` is opened here and not closed properly"),
        ("a:\n  - b: 1\n  c: 2\n", "line 3: the indentation does not fit the lines above"),
        ("a: !env X", "line 1: a: tags (`!...`) are not supported: put a text that begins with `!` in quotes"),
        (
            "a: !!python/name:os.system x",
            "line 1: a: tags (`!...`) are not supported: put a text that begins with `!` in quotes",
        ),
        ("a: !!binary x", "line 1: a: tags (`!...`) are not supported: put a text that begins with `!` in quotes"),
        ("a: !!int x", "line 1: a: this number or truth value cannot be read"),
        ("a: .nan", "line 1: a: the number must be finite"),
        ("a: " + "9" * 5000, "line 1: a: this number or truth value cannot be read"),
        ("a: 1\n\x07: 2", "line 2: a character that YAML does not allow"),
        ("1: a", "line 1: a key must be text: put it in quotes"),
        ("yes: a", "line 1: a key must be text: put it in quotes"),
        ("? [a]\n: b", "line 1: a key must be text: put it in quotes"),
        ("%YAML 3.0\n---\na: b", "line 1: this is not YAML"),
    ],
)
def test_what_cannot_be_read_is_explained(text: str, problem: str) -> None:
    assert problems(text) == [problem]


def test_a_key_given_twice_is_refused_with_both_lines() -> None:
    text = f"{SIMULATOR}routing:\n  debug: true\n  'debug': false\nserver: {{listen: ':1', listen: ':2'}}\n"

    assert problems_of(text)[:2] == [
        "line 4: routing.debug: given twice; it is already on line 3",
        "line 5: server.listen: given twice; it is already on line 5",
    ]


def test_a_key_given_twice_hides_no_other_mistake() -> None:
    assert len(problems_of("providers: [{name: a, name: b, type: x}]")) == 2


def test_aliases_cannot_blow_a_file_up() -> None:
    levels = "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 9))

    assert problems("a0: &a0 [x]\n" + levels) == [
        "line 1: nested too deeply, or too much of it: no configuration looks like this"
    ]


@pytest.mark.parametrize("text", ["a: " + "[" * 5000, "a: " + "{b: " * 200, "- " * 3000])
def test_nesting_is_bounded(text: str) -> None:
    assert problems(text) == ["line 1: nested too deeply, or too much of it: no configuration looks like this"]


def test_the_number_of_values_is_bounded() -> None:
    assert parse_yaml("a: [" + "1," * (MAX_VALUES - 2) + "]").tree is not None
    assert parse_yaml("a: [" + "1," * (MAX_VALUES - 1) + "]").tree is None
