#!/usr/bin/env python3
"""Write docs/configuration.md from the schema of the configuration.

Usage: make_configuration_docs.py [PATH]. Without PATH the page of this checkout is written; ``-`` prints it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
SCHEMA = ROOT / "ccrelay" / "data" / "config.schema.json"
PAGE = ROOT / "docs" / "configuration.md"

INTRODUCTION = """\
# Configuration

<!-- Made from ccrelay/data/config.schema.json by tools/make_configuration_docs.py. Change the schema, not this. -->

A configuration is a YAML file (`.yaml`, `.yml`) or a TOML file (`.toml`). `--config PATH` names it; without, the
`cc-relay` command takes the first that exists of `./config.yaml`, `./config.toml`, `~/.config/cc-relay/config.yaml`,
`~/.config/cc-relay/config.toml` and `/etc/cc-relay.yaml`. `etc/cc-relay.yaml` is a commented one to start from.

The smallest useful one has no `server` section, so that the relay listens on `127.0.0.1:8787`:

```yaml
providers:
  - name: "anthropic"
    type: "anthropic"
    keys:
      - key: "${ANTHROPIC_API_KEY}"
```

A file with mistakes is refused as a whole. All of them are listed at once, each with its path and its line.

## Values

| written | stands for |
|---|---|
| `${NAME}` | the environment variable NAME; it must be set |
| `${NAME:-text}` | the same, or `text` where it is unset or empty |
| `${file:/path}` | the contents of a file, without the newline at its end |
| `$$` | the character `$` |

- They are expanded inside texts, after the file has been parsed: a value cannot change the structure of the file. What
  they yield is not looked at again. `text` and `/path` may hold further ones, as in
  `${file:${CREDENTIALS_DIRECTORY}/anthropic}`.
- Where a number, true or false is wanted, a text with an expansion that yields exactly that is taken for it:
  `max_concurrent: "${MAX_CONCURRENT:-50}"`. A text without an expansion is not: `max_concurrent: "50"` is a mistake.
- A `$` before a letter is a mistake, as it looks like a forgotten brace. Elsewhere it stands for itself.
- Variables and files are needed only where the value is used: those of a disabled provider may be missing.
- A secret must not be empty, with one exception: `key: ""` under `type: anthropic` means that only a client's own
  credential is used. Secrets are printable ASCII without white space at the ends.
- An unknown key is a mistake. A section without any key (`routing:`) counts as absent.
- In YAML, dates are texts, and keys must be texts; a key that is given twice is a mistake.

## Listening beyond this machine

A listener that others can reach needs client authentication: `server.auth.api_key`, or `server.auth.allow_bearer` with
`server.auth.bearer_secret`. Without, the relay refuses to start unless `server.auth.allow_unauthenticated` is true. The
address of a socket that systemd passes cannot be seen, so it counts as one that others can reach, except
`systemd:domain=UNIX:...`. Unix sockets count as this machine.

## Editors

`ccrelay/data/config.schema.json` is a JSON Schema. To have an editor check and complete a YAML file, put its path into
the first line: `# yaml-language-server: $schema=/path/to/config.schema.json`.

"""


def main(arguments: list[str]) -> None:
    page = render(json.loads(SCHEMA.read_text(encoding="utf-8")))
    if arguments == ["-"]:
        sys.stdout.write(page)
    else:
        Path(arguments[0] if arguments else PAGE).write_text(page, encoding="utf-8")


def render(schema: dict[str, Any]) -> str:
    """The page for a schema: one table per top-level section, one for each key of a pool, and what old files carry."""
    parts = [INTRODUCTION]
    for name, section in schema["properties"].items():
        if "items" in section:
            item = resolve(schema, section["items"])
            parts.append(table(schema, f"{name}[]", section["description"], item))
            parts += [
                table(schema, f"{name}[].{key}[]", place["description"], resolve(schema, place["items"]))
                for key, place in item["properties"].items()
                if "$ref" in place.get("items", {})
            ]
        else:
            parts.append(table(schema, name, section["description"], section))
    parts.append("## Keys of older files\n\nThey have no effect. Each gives a warning, and the relay starts.\n\n")
    parts.append("| key | instead |\n|---|---|\n")
    parts += [f"| `{key}` | {text} |\n" for key, text in legacy(schema, schema, "")]
    return "".join(parts)


def table(schema: dict[str, Any], title: str, description: str, section: dict[str, Any]) -> str:
    head = f"## `{title}`\n\n{description}\n\n| key | default | rule |\n|---|---|---|\n"
    return head + "".join(rows(schema, "", section)) + "\n"


def rows(schema: dict[str, Any], prefix: str, section: dict[str, Any]) -> Iterator[str]:
    """One row per key, nested mappings in place."""
    for name, place in section["properties"].items():
        place = resolve(schema, place)
        yield f"| `{prefix}{name}` | {default(name, place, section)} | {rule(place)} |\n"
        if "properties" in place:
            yield from rows(schema, f"{prefix}{name}.", place)


def default(name: str, place: dict[str, Any], section: dict[str, Any]) -> str:
    if name in section.get("required", ()):
        return "required"
    if "properties" in place:
        return ""
    words = []
    if "default" in place:
        words.append(f"`{json.dumps(place['default'])}`")
    words += [f"{kind}: `{json.dumps(value)}`" for kind, value in place.get("x-default-by-type", {}).items()]
    if "x-default-text" in place:
        words.append(place["x-default-text"])
    return "; ".join(words) or "-"


def rule(place: dict[str, Any]) -> str:
    words = [place["description"]]
    if "enum" in place:
        words.append("One of " + ", ".join(f"`{value}`" for value in place["enum"]) + ".")
    low, high = place.get("minimum"), place.get("maximum")
    if high is not None:
        words.append(f"{low} to {high}.")
    elif low:
        words.append(f"At least {low}.")
    if place.get("x-secret"):
        words.append("Secret.")
    if "x-types" in place and not place["description"].startswith("Required for"):
        words.append("Only for " + ", ".join(place["x-types"]) + ".")
    return " ".join(words).replace("|", "\\|")


def legacy(schema: dict[str, Any], section: dict[str, Any], prefix: str) -> Iterator[tuple[str, str]]:
    for key, text in section.get("x-legacy", {}).items():
        yield prefix + key, text
    for name, place in section.get("properties", {}).items():
        yield from legacy(schema, resolve(schema, place), f"{prefix}{name}.")


def resolve(schema: dict[str, Any], place: dict[str, Any]) -> dict[str, Any]:
    if "$ref" not in place:
        return place
    return schema["$defs"][place["$ref"].removeprefix("#/$defs/")] | place


if __name__ == "__main__":
    main(sys.argv[1:])
