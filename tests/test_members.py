"""The scanner against json: whatever json reads, cut anywhere, the scanner finds in the same place."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ccrelay.core import members, nesting
from ccrelay.core.members import Member, MemberScanner
from ccrelay.errors import MalformedBody

WHITE = st.text(" \t\n\r", max_size=3)
NAMES = st.one_of(st.text(max_size=6), st.sampled_from(['a"b', "\\", "stream", "système", "\ud800", "", "]}", "mode"]))
PLAIN = st.text('abc \\"\n{}[],:\u20ac\U0001f600\ud83d', max_size=12)
NUMBERS = st.one_of(
    st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.sampled_from([0, -0.0, 10**60, 1e-300])
)
SCALARS = st.one_of(st.none(), st.booleans(), NUMBERS, PLAIN)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(NAMES, inner, max_size=4)),
    max_leaves=12,
)
MODELS = st.text(min_size=1, max_size=10)


@st.composite
def spelled(draw: Any, value: object) -> str:
    """``value`` as JSON text with any white space and any spelling of its strings."""
    white = lambda: draw(WHITE)  # noqa: E731
    if isinstance(value, str):
        text = json.dumps(value, ensure_ascii=draw(st.booleans()))
        if value and draw(st.booleans()):
            at = draw(st.integers(0, len(value) - 1))
            units = value[at].encode("utf-16-be", "surrogatepass")
            escape = "".join(f"\\u{units[i : i + 2].hex()}" for i in range(0, len(units), 2))
            text = json.dumps(value[:at])[:-1] + escape + json.dumps(value[at + 1 :])[1:]
        return text.encode("utf-8", "backslashreplace").decode()  # a lone surrogate has no UTF-8: spell it
    if isinstance(value, dict):
        items = [f"{white()}{draw(spelled(k))}{white()}:{white()}{draw(spelled(v))}{white()}" for k, v in value.items()]
        return "{" + (",".join(items) or white()) + "}"
    if isinstance(value, list):
        return "[" + (",".join(f"{white()}{draw(spelled(v))}{white()}" for v in value) or white()) + "]"
    return json.dumps(value)


@st.composite
def bodies(draw: Any) -> bytes:
    """An object with one ``model``, anywhere, and other members, whose names may repeat."""
    others = draw(st.lists(st.tuples(NAMES.filter(lambda name: name != "model"), VALUES), max_size=5))
    others.insert(draw(st.integers(0, len(others))), ("model", draw(MODELS)))
    members_ = [
        f"{draw(WHITE)}{draw(spelled(name))}{draw(WHITE)}:{draw(WHITE)}{draw(spelled(value))}{draw(WHITE)}"
        for name, value in others
    ]
    return f"{draw(WHITE)}{{{','.join(members_)}}}{draw(WHITE)}".encode()


def pieces(body: bytes, cuts: list[int]) -> list[bytes]:
    """``body`` cut at the given places."""
    places = sorted({cut % (len(body) + 1) for cut in cuts})
    return [body[start:end] for start, end in zip([0, *places], [*places, len(body)], strict=True)]


def feed(scanner: MemberScanner, body: bytes, size: int) -> None:
    """Hand over ``body`` in pieces of ``size`` bytes."""
    for i in range(0, len(body), size):
        scanner.receive_data(body[i : i + size])


def scan(body: bytes, cuts: list[int] | None = None) -> MemberScanner:
    """Feed ``body`` cut at ``cuts`` (None: byte by byte) and end it."""
    scanner = MemberScanner()
    for piece in pieces(body, cuts) if cuts is not None else [body[i : i + 1] for i in range(len(body))]:
        scanner.receive_data(piece)
    scanner.receive_eof()
    return scanner


def top_level(body: bytes) -> list[tuple[str, object]]:
    """The members that json reads, repeated names too."""
    pairs: list[tuple[str, object]] = []

    def top_level_last(found: list[tuple[str, object]]) -> dict[str, object]:
        pairs[:] = found
        return dict(found)

    json.loads(body, object_pairs_hook=top_level_last)
    return pairs


def first_members(body: bytes) -> dict[str, object]:
    """The first of each name, where json's own dict would keep the last."""
    return dict(reversed(top_level(body)))


def assert_agrees(scanner: MemberScanner, body: bytes) -> None:
    expected = first_members(body)
    assert scanner.complete
    for name, value in expected.items():
        member = scanner.find(name)
        assert member is not None
        assert member.name == name
        span = body[member.start : member.end]
        assert json.loads(span) == value
        assert member.raw == (None if isinstance(value, dict | list) or len(span) > members.MAX_TOKEN else span)
    assert scanner.find("no such name") is None
    read = [(member.name, json.loads(body[member.start : member.end])) for member in scanner.in_order]
    assert read == top_level(body)
    for member in scanner.in_order:
        name, colon = body[member.name_start : member.start].rstrip(b" \t\n\r"), b":"
        assert json.loads(name.removesuffix(colon)) == member.name


CUTS = st.lists(st.integers(0, 10**6), max_size=6)


@given(bodies(), CUTS)
@example(b'{"mod\\u0065l":"x","a":[1,[2,{"b":"]"}]],"c":"\\\\"}', [])
@example(b'{"model":"a\\"b","a\\"b":[{"":{"a\\\\\\"":1}}]}', [])
@example(b'{"a":"\\\\\\"","model":"\\\\","b":["\\\\\\\\\\\\\\\\\\"","\\"]"]}', [7, 9, 12])
def test_every_member_is_found_where_json_has_it_whatever_the_cuts(body: bytes, cuts: list[int]) -> None:
    assert_agrees(scan(body, cuts), body)
    assert_agrees(scan(body), body)


def test_every_single_cut_is_harmless() -> None:
    body = (
        b' { "model" : "claude" ,"a":-12.5e+3,"b":true, "c\\u00e9\\"\\\\":"x\\\\\\"","d":[1,{"e":"]\\\\"}],"f":{},'
        b'"g":null,"h":{"i":"\\"}"},"j":0} '
    )
    for cut in range(len(body)):
        assert_agrees(scan(body, [cut]), body)


def grown(seed: int, size: int) -> bytes:
    """A large document: windows, blocks and long strings matter in it."""
    rng = random.Random(seed)
    alphabet = ["plain text ", "\\", '"', "\n", "{[", "]}", "\u20ac", '\\"', "a" * 50, "}],", "},"]

    def text() -> str:
        return "".join(rng.choices(alphabet, k=rng.choice([0, 1, 3, 40, 400])))

    def value(depth: int) -> object:
        kind = rng.random() if depth else 0.0
        if kind < 0.4:
            return text()
        if kind < 0.5:
            return rng.choice([1, None, True, -2.5e10])
        if kind < 0.75:
            return [value(depth - 1) for _ in range(rng.randrange(6))]
        return {text()[:20] + str(i): value(depth - 1) for i in range(rng.randrange(6))}

    document: dict[str, object] = {"model": "claude"}
    while len(json.dumps(document)) < size:
        document[f"m{len(document)}"] = [value(7) for _ in range(rng.choice([1, 30]))] if rng.random() < 0.8 else text()
    return json.dumps(
        document, separators=rng.choice([(",", ":"), (", ", ": ")]), ensure_ascii=rng.random() < 0.5
    ).encode()


@pytest.mark.parametrize("seed", range(12))
def test_large_documents_agree_with_json_in_blocks_of_any_size(seed: int) -> None:
    body = grown(seed, 150_000)

    for size in (len(body), 65_536, 4_096, 1_447, 100):
        assert_agrees(scan(body, list(range(0, len(body), size))), body)


@pytest.mark.parametrize("depth", [2, 130, 500, 900])
def test_deep_nesting_is_followed(depth: int) -> None:
    body = b'{"model":"m","a":' + b'[{"x":' * depth + b"0" + b"}]" * depth + b',"stream":true}'
    scanner = scan(body, [])
    member = scanner.find("a")
    assert member is not None
    assert body[member.start : member.end] == b'[{"x":' * depth + b"0" + b"}]" * depth
    assert scanner.find("stream") == Member("stream", len(body) - 5, len(body) - 1, b"true", len(body) - 14)
    assert scan(body).find("a") == member


# What is refused.

REFUSED_WITHOUT_END = {
    b"[1]": "expected an object",
    b'"model"': "expected an object",
    b"\xef\xbb\xbf{}": "expected an object",
    '{"model":"x"}'.encode("utf-16"): "expected an object",
    '{"model":"x"}'.encode("utf-16-le"): "name in double quotes",
    b'{"model" "x"': "expected ':'",
    b'{"model":"x" "a"': "expected ',' or '}'",
    b'{"model":"x",}': "name in double quotes",
    b"{,": "name in double quotes",
    b"{'model'": "name in double quotes",
    b'{"model":"x"}{': "something follows the object",
    b'{"model":"x"}\x00': "something follows the object",
    b'{"model":"x"]': "expected ',' or '}'",
    b'{"a":[}': "brackets do not match",
    b'{"a":{"b":[1,{]': "brackets do not match",
    b'{"a":["}",{]': "brackets do not match",
    b'{"a\nb"': "a string is not valid",
    b'{"a\\q"': "a string is not valid",
    b'{"a\xff"': "a string is not valid",
    b'{"a":"\t"': "a string is not valid",
    b'{"a":01,': "expected a value",
    b'{"a":1.}': "expected a value",
    b'{"a":nul,': "expected a value",
    b'{"a":NaN,': "expected a value",
    b'{"a":,': "expected a value",
    b'{"a":]': "expected a value",
    b'{"a":\\"': "expected a value",
    b'{"model":1': "model: Input should be a valid string",
    b'{"model":n': "model: Input should be a valid string",
    b'{"model":{': "model: Input should be a valid string",
    b'{"model": [': "model: Input should be a valid string",
    b'{"model":""': "model: String should have at least 1 character",
    b'{"model":"x","model"': "model: Field must not be repeated",
    b'{"model":"x","a":{"model":1},"mod\\u0065l"': "model: Field must not be repeated",
}


@pytest.mark.parametrize("body", REFUSED_WITHOUT_END)
def test_a_fault_is_told_as_soon_as_it_is_there(body: bytes) -> None:
    for size in (len(body), 1):
        scanner = MemberScanner()
        with pytest.raises(MalformedBody) as found:
            feed(scanner, body, size)
        assert REFUSED_WITHOUT_END[body] in found.value.message


REFUSED_AT_THE_END = {
    b"": "it is empty",
    b" \n": "it is empty",
    b"{}": "model: Field required",
    b'{"a":{"model":"x"}}': "model: Field required",
    b'{"model":"x"': "it ends too early",
    b'{"model":"x",': "it ends too early",
    b'{"model": ': "it ends too early",
    b'{"model":"x': "it ends too early",
    b'{"model":"x\\"': "it ends too early",
    b'{"model': "it ends too early",
    b'{"model":"x","a":12': "it ends too early",
    b'{"model":"x","a":[1,{"b":2}': "it ends too early",
    b'{"model":"x","a":["b\\': "it ends too early",
    b'{"model":"x","a":["b]}': "it ends too early",
}


@pytest.mark.parametrize("body", REFUSED_AT_THE_END)
def test_a_body_that_ends_too_early_is_refused_then(body: bytes) -> None:
    for cuts in (list[int](), None):
        with pytest.raises(MalformedBody) as found:
            scan(body, cuts)
        assert REFUSED_AT_THE_END[body] in found.value.message


def test_the_first_fault_is_told_again_and_what_was_found_stays() -> None:
    scanner = MemberScanner()
    scanner.receive_data(b'{"model":"x",')
    with pytest.raises(MalformedBody) as first:
        scanner.receive_data(b"oops")
    for again in (lambda: scanner.receive_data(b'"a":1}'), scanner.receive_eof):
        with pytest.raises(MalformedBody) as later:
            again()
        assert later.value is first.value
    assert first.value.position == 13
    assert scanner.find("model") == Member("model", 9, 12, b'"x"', 1)
    assert not scanner.complete


def test_the_model_is_found_with_the_byte_that_closes_it() -> None:
    scanner = MemberScanner()
    scanner.receive_data(b'{"model":"claude-opus-5-5')
    assert scanner.find("model") is None
    scanner.receive_data(b'"')
    assert scanner.find("model") == Member("model", 9, 26, b'"claude-opus-5-5"', 1)


def test_positions_count_from_the_start_of_the_body() -> None:
    body = b'{"model":"x","long":"' + b"\\n" * 5000 + b'","a":tru}'
    for size in (len(body), 1000, 1):
        with pytest.raises(MalformedBody) as found:
            scan(body, list(range(0, len(body), size)))
        assert found.value.position == body.index(b"tru")


def test_scalars_are_kept_up_to_the_bound_and_spanned_beyond() -> None:
    fits = b'"' + b"x" * (members.MAX_TOKEN - 2) + b'"'
    longer = b'"' + b"\\n" * members.MAX_TOKEN + b'"'
    body = b'{"fits":' + fits + b',"longer":' + longer + b',"model":"m"}'
    for cuts in ([], None, [100, 5000]):
        scanner = scan(body, cuts)
        assert scanner.find("fits") == Member("fits", 8, 8 + len(fits), fits, 1)
        start = body.index(longer)
        assert scanner.find("longer") == Member("longer", start, start + len(longer), None, start - 9)


@pytest.mark.parametrize(
    "body",
    [
        b'{"' + b"n" * members.MAX_TOKEN + b'":1,"model":"m"}',
        b'{"a":' + b"1" * (members.MAX_TOKEN + 1) + b',"model":"m"}',
        b'{"model":"' + b"m" * members.MAX_TOKEN + b'"}',
        b'{"model":"m"' + b"".join(b',"a%d":{}' % i for i in range(members.MAX_MEMBERS)) + b"}",
        b'{"model":"m","a":' + b"[" * 2 * nesting.MAX_DEPTH + b"]" * 2 * nesting.MAX_DEPTH + b"}",
    ],
    ids=["name", "number", "model", "members", "depth"],
)
def test_bounds_hold_however_the_body_is_cut(body: bytes) -> None:
    for cuts in ([], list(range(0, len(body), 100)), None):
        with pytest.raises(MalformedBody):
            scan(body, cuts)


def test_the_number_of_members_is_bounded_not_what_they_hold() -> None:
    body = b'{"model":"m"' + b"".join(b',"a%d":{"b":[1]}' % i for i in range(members.MAX_MEMBERS - 1)) + b"}"
    assert_agrees(scan(body, []), body)


# Mutations: where json refuses for a reason that can be seen at the top level, so does the scanner.


def deep_grammar_only(body: bytes) -> bool:
    """Whether ``body`` may be JSON for all that the scanner checks.

    An independent reading by the rules of the module's docstring: each nested value is replaced by null when its
    strings and brackets match, which is all that is asked of it. Backslashes outside strings are left to chance.
    """
    out = bytearray()
    stack = bytearray()
    in_string = escaped = False
    for byte in body:
        char = bytes((byte,))
        if len(stack) < 2 and not (in_string and len(stack) > 1):
            out += char
        if in_string:
            in_string = escaped or char != b'"'
            escaped = char == b"\\" and not escaped
        elif char == b'"':
            in_string = True
        elif char == b"\\":
            return True
        elif char in b"{[":
            stack += char
            if len(stack) == 2:
                out[-1:] = b"null"
        elif char in b"}]":
            if not stack or stack.pop() != (b"{" if char == b"}" else b"[")[0]:
                return False
    try:
        return isinstance(json.loads(out.decode()), dict)
    except ValueError:
        return False


MUTATIONS = st.lists(
    st.tuples(st.integers(0, 10**6), st.integers(0, 2), st.sampled_from([bytes((b,)) for b in b'{}[]",:\\ae1 \n\xff'])),
    min_size=1,
    max_size=3,
)


@given(bodies(), MUTATIONS, CUTS)
@example(b'{"a": {}, "model": "m"}', [(6, 1, b"]")], [])
def test_a_broken_body_is_refused_unless_only_nested_grammar_is_broken(
    body: bytes, mutations: list[tuple[int, int, bytes]], cuts: list[int]
) -> None:
    for place, kind, byte in mutations:
        at = place % (len(body) + 1)
        body = body[:at] + (byte if kind else b"") + body[at + (kind != 2) :]
    try:
        scanner = scan(body, cuts)
    except MalformedBody:
        try:
            read = first_members(body)
        except (ValueError, RecursionError):
            return
        # Accepted by json all the same: then it is not what routing can use, or bytes json takes and JSON does not.
        routable = isinstance(read.get("model"), str) and read["model"] != ""
        repeated = sum(name == "model" for name, _ in json.loads(body, object_pairs_hook=list)) != 1
        assert not isinstance(json.loads(body), dict) or not routable or repeated or body.startswith(b"\xef\xbb\xbf")
        return
    try:
        json.loads(body)
    except (ValueError, RecursionError):
        assert deep_grammar_only(body)
    else:
        assert_agrees(scanner, body)


@pytest.mark.parametrize("filler", [b'"x\\n",', b"[{}],", b'"' + b"y" * 500 + b'",'], ids=["strings", "nested", "long"])
@pytest.mark.parametrize("size", [10**6, 4096, 100])
def test_brackets_that_do_not_match_are_found_in_the_midst_of_large_values(filler: bytes, size: int) -> None:
    start = b'{"model":"m","a":[[[{"b":[' + filler * (20_000 // len(filler))
    body = start + b"}" + filler * 100
    scanner = MemberScanner()
    with pytest.raises(MalformedBody, match="brackets do not match") as found:
        feed(scanner, body, size)
    assert found.value.position == len(start)


@pytest.mark.parametrize(
    "value",
    [
        b"[" * 3000 + b"]" * 3000,
        b'["' * 4000 + b'"]' * 4000,
        b"[" + b"[[[]]]," * 3000 + b"0]",
        b"[" + b"{}[]" * 5000 + b"]",
        b'["' + b"\\\\" * 20_000 + b'"]',
        b'["' + b'\\\\\\"' * 8_000 + b'"]',
        b'["' + b'\\\\\\\\\\"' * 5_000 + b'"]',
        b"[" + b'"\\n",' * 5_000 + b'""]',
        b"[" + b'"\\"",' * 4_001 + b'""]',
        b"[" + b'"\\\\",' * 4_001 + b'""]',
        b"[" + b'"' * 20_000 + b"]",
        b"[" + b"}]," * 10 + b"]",
    ],
    ids=range(12),
)
def test_hostile_shapes_are_read_alike_whole_and_in_pieces(value: bytes) -> None:
    body = b'{"a":' + value + b',"model":"m"}'

    def outcome(size: int) -> tuple[Member | None, Member | None] | str:
        try:
            scanner = scan(body, list(range(0, len(body), size)))
        except MalformedBody as error:
            return error.message
        return scanner.find("a"), scanner.find("model")

    whole = outcome(len(body))
    assert outcome(1000) == outcome(333) == whole
    if not isinstance(whole, str):
        assert whole[0] == Member("a", 5, 5 + len(value), None, 1)
