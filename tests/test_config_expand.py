"""Expansion of variables and files inside texts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccrelay.core.config_expand import expand, has_reference
from tests.config_loading import load_text, problems_of, provider_of, settings_of

UNCLOSED = "a `${` without `}`: use ${NAME}, ${NAME:-default} or ${file:PATH}, or $$ for the character `$`"
FILES = {"/run/key": "secret\n", "/run/two": "one\ntwo\n\n", "/run/crlf": "secret\r\n", "/run/bare": "secret"}
NAMES = st.sampled_from(["A", "_b", "NAME_2"])
PLAIN = st.text(st.characters(blacklist_characters="$", blacklist_categories=("Cs",)))
VALUES = st.text(st.characters(blacklist_categories=("Cs",)))


def read_file(path: str) -> str:
    if path == "/run/binary":
        raise UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte")
    if path not in FILES:
        raise FileNotFoundError(2, "No such file or directory", path)
    return FILES[path]


def expanded(text: str, **environ: str) -> str:
    value, complaints = expand(text, environ, read_file)
    assert complaints == ()
    return value


def complaints_of(text: str, **environ: str) -> tuple[str, ...]:
    return expand(text, environ, read_file)[1]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", ""),
        ("plain } text {", "plain } text {"),
        ("${A}", "x"),
        ("<${A}-${A}>", "<x-x>"),
        ("${EMPTY}", ""),
        ("${B:-d}", "d"),
        ("${EMPTY:-d}", "d"),
        ("${A:-d}", "x"),
        ("${B:-}", ""),
        ("${B:-${A}}", "x"),
        ("${B:-<${C:-${A}}>}", "<x>"),
        ("${B:-a:-b}", "a:-b"),
        ("$$", "$"),
        ("$${A}", "${A}"),
        ("$$$$", "$$"),
        ("$$${A}", "$x"),
        ("${B:-$$}", "$"),
        ("5$", "5$"),
        ("$5 and $-", "$5 and $-"),
        ("${file:/run/key}", "secret"),
        ("${file:/run/crlf}", "secret"),
        ("${file:/run/bare}", "secret"),
        ("${file:/run/two}", "one\ntwo\n"),
        ("Bearer ${file:/run/${NAME}}", "Bearer secret"),
        ("${B:-${file:/run/key}}", "secret"),
    ],
)
def test_what_a_text_expands_to(text: str, value: str) -> None:
    assert expanded(text, A="x", EMPTY="", NAME="key") == value


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("${A}", "the environment variable A is not set: set it, or write ${A:-default}"),
        ("${A:-${B}}", "the environment variable B is not set: set it, or write ${B:-default}"),
        ("${file:/nowhere}", "cannot read the file /nowhere: No such file or directory"),
        ("${file:${DIR:-/x}/key}", "cannot read the file ${DIR:-/x}/key: No such file or directory"),
        ("${file:/run/binary}", "the file /run/binary is not text in UTF-8"),
        ("${file:}", "cannot read the file named here: No such file or directory"),
        ("$A", "a `$` before a letter: write ${NAME} for a variable, or $$ for the character `$`"),
        ("${A", UNCLOSED),
        ("${A:?}", "this form of `${` is not known: use ${NAME}, ${NAME:-default} or ${file:PATH}"),
        ("${A-x}", "this form of `${` is not known: use ${NAME}, ${NAME:-default} or ${file:PATH}"),
        ("${}", "what follows `${` is not the name of a variable: use ${NAME}, ${NAME:-default} or ${file:PATH}"),
        ("${1}", "what follows `${` is not the name of a variable: use ${NAME}, ${NAME:-default} or ${file:PATH}"),
        ("${A:-", UNCLOSED),
        ("${file:/x", UNCLOSED),
        ("${A:-" * 20 + "}" * 20, "too many `${` inside one another"),
    ],
)
def test_what_cannot_be_expanded(text: str, complaint: str) -> None:
    assert complaints_of(text) == (complaint,)


def test_everything_that_is_missing_in_a_text_is_named() -> None:
    assert len(complaints_of("${A}${B}${file:/nowhere}")) == 3


def test_a_default_that_is_not_used_may_be_missing() -> None:
    assert expanded("${A:-${B}}", A="x") == "x"


def test_a_file_too_large_for_a_credential_is_refused() -> None:
    _, complaints = expand("${file:/x}", {}, lambda path: "x" * 70_000)

    assert complaints == ("the file /x is larger than 65536 characters: no credential is",)


@given(VALUES, NAMES)
def test_what_a_variable_holds_is_not_looked_at_again(value: str, name: str) -> None:
    assert expand(f"<${{{name}}}>", {name: value}, read_file) == (f"<{value}>", ())


@given(VALUES)
def test_any_text_can_be_written_by_doubling_the_dollars(text: str) -> None:
    assert expand(text.replace("$", "$$"), {}, read_file) == (text, ())
    assert not has_reference(text.replace("$", "$$"))


@given(PLAIN)
def test_a_text_without_a_dollar_stays_as_it_is(text: str) -> None:
    assert expand(text, {}, read_file) == (text, ())


@given(PLAIN.filter(lambda text: "}" not in text), NAMES, st.integers(0, 7))
def test_defaults_nest(text: str, name: str, depth: int) -> None:
    nested = f"${{{name}:-" * depth + text + "}" * depth

    assert expand(nested, {}, read_file) == (text, ())


@given(st.text(alphabet="${}:-Afile/ ", max_size=40))
def test_any_text_is_expanded_or_complained_about(text: str) -> None:
    value, complaints = expand(text, {"A": "x"}, read_file)

    assert bool(complaints) or isinstance(value, str)
    assert not any(complaint.isspace() or "\n" in complaint for complaint in complaints)


@given(VALUES)
def test_a_value_never_changes_the_structure_of_the_file(value: str) -> None:
    text = "providers: [{name: demo, type: simulator, simulator: {text: '${TEXT}'}}]"
    plain = "".join(c for c in value if c.isprintable())
    [provider] = load_text(text, {"TEXT": plain}).settings.providers

    assert provider.simulator is not None
    assert provider.simulator.text == plain


def test_keys_of_a_mapping_are_not_expanded() -> None:
    provider = provider_of("{name: a, type: ollama, model_mapping: {'${A}': '${A}'}}", {"A": "x"})

    assert dict(provider.model_mapping) == {"${A}": "x"}


@pytest.mark.parametrize(("value", "priority"), [("7", 7), ("007", 7), ("0", 0)])
def test_a_number_may_come_from_a_variable(value: str, priority: int) -> None:
    assert provider_of("{name: a, type: ollama, priority: '${P}'}", {"P": value}).priority == priority


@pytest.mark.parametrize("value", ["", " 7", "7 ", "1.0", "0x7", "1e1", "+7", "seven", "7\n", "\u0667", "true"])
def test_what_is_not_exactly_a_number_is_refused(value: str) -> None:
    [problem] = problems_of("providers: [{name: a, type: ollama, priority: '${P}'}]", {"P": value})

    assert problem.startswith("line 1: providers[0].priority: must be a whole number")


def test_truth_values_and_fractions_may_come_from_variables() -> None:
    text = "providers: [{name: a, type: simulator}]\nrouting: {debug: '${D}', retry_budget: '${R}'}"
    routing = settings_of(text, {"D": "true", "R": "0.75"}).routing

    assert (routing.debug, routing.retry_budget) == (True, 0.75)
    assert problems_of(text, {"D": "True", "R": "1"})[0].startswith("line 2: routing.debug: must be true or false")


def test_a_number_that_comes_from_a_variable_keeps_its_bounds() -> None:
    assert problems_of("providers: [{name: a, type: ollama, priority: '${P:-200}'}]") == [
        "line 1: providers[0].priority: must be between 0 and 100"
    ]


def test_a_disabled_provider_needs_no_environment() -> None:
    text = """
        providers:
          - {name: a, type: simulator}
          - name: b
            type: azure
            enabled: false
            azure_resource_name: ${RESOURCE}
            priority: ${PRIORITY}
            keys: [{key: "${KEY}"}, {key: "${file:/nowhere}"}]
        """

    assert [provider.name for provider in settings_of(text).providers] == ["a"]


def test_a_disabled_provider_is_checked_for_its_form() -> None:
    text = """
        providers:
          - {name: a, type: simulator}
          - name: b
            type: bedrock
            enabled: false
            priority: "${PRIORITY"
            keys: [{kye: "${KEY}"}]
        """

    assert problems_of(text) == [
        "line 4: providers[1].aws_region: is required, such as `aws_region: us-east-1`",
        f"line 7: providers[1].priority: {UNCLOSED}",
        'line 8: providers[1].keys[0].key: is required, such as `key: "${ANTHROPIC_API_KEY}"`',
        "line 8: providers[1].keys[0].kye: unknown key; did you mean `key`?",
    ]


def test_whether_a_provider_is_enabled_may_come_from_a_variable() -> None:
    text = """
        providers:
          - {name: a, type: simulator}
          - {name: b, keys: [{key: "${KEY}"}], type: zai, enabled: "${USE_ZAI:-false}"}
        """

    assert [provider.name for provider in settings_of(text).providers] == ["a"]
    assert len(settings_of(text, {"USE_ZAI": "true", "KEY": "k"}).providers) == 2
    assert [problem.split(":")[1] for problem in problems_of(text, {"USE_ZAI": "true"})] == [
        " providers[1].keys[0].key"
    ]


def test_an_unset_variable_gives_no_further_complaints_about_its_value() -> None:
    text = "providers: [{name: a, type: bedrock, aws_region: '${R}', priority: '${P}', base_url: '${U}'}]"

    assert [problem.split(": ")[1:3] for problem in problems_of(text)] == [
        [f"providers[0].{key}", f"the environment variable {name} is not set"]
        for key, name in [("aws_region", "R"), ("base_url", "U"), ("priority", "P")]
    ]
