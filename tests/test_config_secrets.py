"""No way of getting a configuration wrong, or right, makes it show a secret."""

from __future__ import annotations

import copy
import json
from typing import Any

import yaml
from hypothesis import given
from hypothesis import strategies as st

from ccrelay.core.config import load
from ccrelay.errors import ConfigError
from tests.test_config import EVERYTHING

CANARIES = [f"Canary-{n}-7f3a" for n in range(12)]

WHOLE: dict[str, Any] = {
    "server": {
        "listen": "127.0.0.1:8787",
        "api_key": CANARIES[0],
        "auth": {"api_key": CANARIES[0], "allow_bearer": True, "bearer_secret": CANARIES[1]},
        "timeout_ms": 5,
    },
    "providers": [
        {
            "name": "a",
            "type": "anthropic",
            "base_url": f"https://user:{CANARIES[2]}@host",
            "keys": [{"key": CANARIES[3]}, {"key": "${FROM_ENVIRONMENT}", "priority": 1}],
        },
        {
            "name": "b",
            "type": "bedrock",
            "aws_region": "us-east-1",
            "aws_access_key_id": CANARIES[5],
            "aws_secret_access_key": CANARIES[6],
            "aws_session_token": CANARIES[7],
        },
        {"name": "d", "type": "bedrock", "aws_region": "us-east-1", "aws_bearer_token": "${file:/run/secret}"},
        {
            "name": "c",
            "type": "azure",
            "azure_resource_name": "r",
            "azure_tenant_id": "t",
            "azure_client_id": "c",
            "azure_client_secret": CANARIES[9],
            "proxy": f"http://user:{CANARIES[10]}@host",
        },
    ],
    "routing": {"strategy": "failover"},
}
TAKES_ANY_TEXT = {"name", "allowed_hosts", "models", "model_mapping", "tls", "ca_file", "output"}
"""Keys with texts that are no secrets, so that the settings show them."""

ENVIRON = {"FROM_ENVIRONMENT": CANARIES[4]}

NOISE = st.sampled_from([None, 5, True, "", "x", [], {}, "$", "${", "${UNSET}", "${file:/no}"])
SECRET_NOISE = st.sampled_from(["${FROM_ENVIRONMENT}", "${file:/run/secret}"])


def paths_of(tree: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    return [inner for key, value in items for inner in [(*path, key), *paths_of(value, (*path, key))]]


def broken(draw: st.DrawFn, tree: Any) -> Any:
    """The tree with one thing wrong: a value replaced, wrapped, moved, doubled or lost, a key misspelt."""
    path = draw(st.sampled_from(paths_of(tree)))
    holder = tree
    for part in path[:-1]:
        holder = holder[part]
    key, value = path[-1], holder[path[-1]]
    way = draw(st.integers(0, 7))
    if way == 0:
        named = isinstance(value, str) and value not in CANARIES  # a name may be any text, and names are shown
        holder[key] = draw(NOISE if named else NOISE | SECRET_NOISE)
    elif way == 1:
        holder[key] = [value]
    elif way == 2:
        holder[key] = {"value": value}
    elif way == 3:
        del holder[key]
    elif way == 4 and isinstance(holder, dict):
        holder[key[:-1] + "q"] = holder.pop(key)
    elif way == 5 and isinstance(holder, list):
        holder.append(value)
    elif way == 6 and isinstance(value, str):
        holder[key] = draw(st.sampled_from(["$%s", "${%s}", " %s", "%s\n", "${file:${%s}}", "${UNSET:-%s}"])) % value
    else:
        holder[
            draw(st.sampled_from(["key", "type", "listen", "base_url", "name_"])) if isinstance(holder, dict) else 0
        ] = value
    return tree


@st.composite
def broken_trees(draw: st.DrawFn) -> Any:
    tree = copy.deepcopy(WHOLE)
    if draw(st.booleans()):  # without these two the rest is a configuration that loads
        del tree["providers"][0]["base_url"], tree["providers"][3]["proxy"]
    for _ in range(draw(st.integers(0, 4))):
        tree = broken(draw, tree)
    return tree


@st.composite
def broken_texts(draw: st.DrawFn) -> str:
    """The text of a broken tree, with a few of its characters lost or replaced."""
    tree = draw(broken_trees())
    text = yaml.safe_dump(tree) if draw(st.booleans()) else json.dumps(tree, indent=1)
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(text)))
        text = (
            text[:at]
            + draw(st.sampled_from(["", "\n", ": ", "'", '"', "\t", "*", "&", "!", "[", "}", "#", "- "]))
            + text[at + draw(st.integers(0, 2)) :]
        )
    return text


def said_about(text: str, syntax: Any = "yaml", *, with_settings: bool = True) -> str:
    """Everything that loading a text makes visible."""

    def read_file(path: str) -> str:
        if path != "/run/secret":
            raise FileNotFoundError(2, "No such file or directory", path)
        return CANARIES[8] + "\n"

    try:
        loaded = load(text, source="relay.yaml", syntax=syntax, environ=ENVIRON, read_file=read_file)
    except ConfigError as error:
        return f"{error} {error!r} {error.problems!r} {error.args!r}"
    return f"{loaded!r} {loaded.settings} {loaded.warnings}" if with_settings else f"{loaded.warnings}"


def test_the_whole_configuration_loads_when_nothing_is_broken() -> None:
    tree = copy.deepcopy(WHOLE)
    del tree["providers"][0]["base_url"], tree["providers"][3]["proxy"]

    assert said_about(yaml.safe_dump(tree)).startswith("Loaded(")


@given(broken_trees())
def test_a_broken_configuration_shows_no_secret(tree: Any) -> None:
    said = said_about(yaml.safe_dump(tree))

    assert [canary for canary in CANARIES if canary in said] == []


@given(broken_texts(), st.sampled_from(["yaml", "toml"]))
def test_a_broken_text_shows_no_secret(text: str, syntax: str) -> None:
    said = said_about(text, syntax, with_settings=False)  # a name may now begin before a secret and end behind it

    assert [canary for canary in CANARIES if canary in said] == []


def test_a_secret_in_any_wrong_place_stays_unseen() -> None:
    tree = yaml.safe_load(EVERYTHING)
    places = [path for path in paths_of(tree) if not TAKES_ANY_TEXT & set(path)]
    texts = []
    for path in places:
        wrong = copy.deepcopy(tree)
        holder = wrong
        for part in path[:-1]:
            holder = holder[part]
        holder[path[-1]] = CANARIES[0]
        texts.append(said_about(yaml.safe_dump(wrong)))

    assert len([text for text in texts if text.startswith("relay.yaml: ")]) > 40
    assert [path for path, text in zip(places, texts, strict=True) if CANARIES[0] in text] == []
