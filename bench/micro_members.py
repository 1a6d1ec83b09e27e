"""Time to find the top-level members of a body, beside json.loads of the same body.

Run it from the checkout: PYTHONPATH=. python bench/micro_members.py
The bodies have the shape that Claude Code sends (31 kB of tools, 12 kB of system prompt, a conversation about code)
and real prose and code, from Python's own documentation and library. Each figure is the mean over several bodies of
the best of several runs: a single body would let the processor learn its branches. Then hostile shapes, in ns per
byte, which must stay of one order whatever the size.
"""

from __future__ import annotations

import argparse
import http.client
import inspect
import json
import random
import subprocess
import tarfile
import time
from collections.abc import Callable
from pydoc_data.topics import topics

from ccrelay.core.members import MemberScanner
from ccrelay.errors import MalformedBody

PROSE = "\n".join(topics[name] for name in sorted(topics))
CODE = "".join(inspect.getsource(module) for module in (argparse, http.client, subprocess, tarfile))
FIELDS = "file_path content pattern replace_all offset limit command description timeout glob url prompt status".split()
BODIES = 6
REPETITIONS = 20
HOSTILE_BYTES = (250_000, 1_000_000)


class Text:
    """Pieces of a long text, one after another."""

    def __init__(self, text: str, start: int) -> None:
        self._text = text
        self._place = start % len(text)

    def take(self, size: int) -> str:
        if self._place + size > len(self._text):
            self._place = 0
        self._place += size
        return self._text[self._place - size : self._place]


def tool(number: int, rng: random.Random, prose: Text) -> dict[str, object]:
    """A tool's description and schema."""
    todo = {"content": {"type": "string", "minLength": 1}, "status": {"type": "string", "enum": ["open", "done"]}}
    properties: dict[str, dict[str, object]] = {}
    for name in rng.sample(FIELDS, rng.randint(2, 6)):
        field: dict[str, object] = {"description": prose.take(rng.randint(40, 160)), "type": "string"}
        if rng.random() < 0.3:
            field["enum"] = rng.sample(FIELDS, 4)
        if rng.random() < 0.25:
            items = {"type": "object", "properties": todo, "required": list(todo), "additionalProperties": False}
            field = {"type": "array", "items": items, "description": prose.take(60)}
        properties[name] = field
    schema = {"type": "object", "properties": properties, "required": list(properties)[:2]}
    description = prose.take(rng.choice([300, 900, 1500, 3000]))
    return {"name": f"Tool{number}", "description": description, "input_schema": schema}


def turn(number: int, rng: random.Random, prose: Text, code: Text) -> list[dict[str, object]]:
    """A tool call and its result."""
    path = f"/home/user/project/src/module{number}.py"
    result = code.take(rng.choice([200, 2000, 6000]))
    name = rng.choice(["Read", "Read", "Edit", "Bash"])
    call: dict[str, object] = {"file_path": path}
    if name == "Edit":
        call |= {"old_string": code.take(400), "new_string": code.take(500)}
    elif name == "Bash":
        call = {"command": f'grep -rn "def {rng.choice(FIELDS)}" src | head -20', "description": "Find it"}
    else:
        result = "".join(f"{line:6}\t{text}" for line, text in enumerate(result.splitlines(keepends=True), 1))
    thinking = {"type": "thinking", "thinking": "", "signature": "".join(rng.choices("ABCDEFghijkl0123+/", k=600))}
    use = {"type": "tool_use", "id": f"toolu_{number:020}", "name": name, "input": call}
    answer = {"tool_use_id": f"toolu_{number:020}", "type": "tool_result", "content": result, "is_error": False}
    return [
        {"role": "assistant", "content": [thinking, {"type": "text", "text": prose.take(200)}, use]},
        {"role": "user", "content": [answer]},
    ]


def claude_code_body(size: int, seed: int) -> bytes:
    """A body of about ``size`` bytes, at least 55 kB."""
    rng = random.Random(seed)
    prose, code = Text(PROSE, seed * 77_777), Text(CODE, seed * 55_555)
    cached = {"cache_control": {"type": "ephemeral"}}
    tools: list[object] = []
    while len(compact(tools)) < 31_000:
        tools.append(tool(len(tools), rng, prose))
    messages: list[object] = [
        {"role": "user", "content": [{"type": "text", "text": prose.take(2000)}]},
        {"role": "system", "content": prose.take(9000)},
    ]
    user = {"device_id": "d" * 64, "account_uuid": "a" * 36, "session_id": "5" * 36}
    document = {
        "model": "claude-opus-5-5",
        "messages": messages,
        "system": [
            {"type": "text", "text": "x-anthropic-billing-header: cc_version=2.1.330.abc; cc_entrypoint=cli;"},
            {"type": "text", "text": prose.take(60), **cached},
            {"type": "text", "text": prose.take(11_500), **cached},
        ],
        "tools": tools,
        "metadata": {"user_id": json.dumps(user)},
        "max_tokens": 128_000,
        "thinking": {"type": "adaptive", "display": "omitted"},
        "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
        "output_config": {"effort": "high"},
        "stream": True,
    }
    length = len(compact(document))
    while length < size:
        new = turn(len(messages), rng, prose, code)
        messages.extend(new)
        length += len(compact(new)) - 1
    return compact(document)


def compact(value: object) -> bytes:
    """As JavaScript writes JSON."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def scan(body: bytes, piece: int) -> MemberScanner:
    """Feed ``body`` as a network would."""
    scanner = MemberScanner()
    for start in range(0, len(body), piece):
        scanner.receive_data(body[start : start + piece])
    scanner.receive_eof()
    return scanner


def best_times(bodies: list[bytes], works: dict[str, Callable[[bytes], object]]) -> dict[str, float]:
    """Microseconds per body of each work, all interleaved so that the machine's drift hits all alike."""
    best = {name: [float("inf")] * len(bodies) for name in works}
    for _ in range(REPETITIONS):
        for number, body in enumerate(bodies):
            for name, work in works.items():
                start = time.perf_counter()
                work(body)
                best[name][number] = min(best[name][number], time.perf_counter() - start)
    return {name: sum(times) / len(times) * 1e6 for name, times in best.items()}


def hostile_values(size: int) -> dict[str, bytes]:
    """About ``size`` bytes each that come after an opening bracket."""
    shapes = {
        "opening brackets": b"[",
        "deep nests": b"[" * 9000 + b"]" * 9000 + b",",
        "peaks": b"[" * 40 + b"]" * 39 + b",]",
        "small objects": b'{"a":{}},',
        "empty strings": b'""',
        "short escapes": b'"\\n",',
        "escaped quotes": b'\\"',
        "five backslashes": b'\\\\\\\\\\"',
        "backslashes": b"\\",
    }
    opened = ("escaped quotes", "five backslashes", "backslashes")
    return {name: b'"' * (name in opened) + shape * (size // len(shape)) for name, shape in shapes.items()}


def hostile_time(body: bytes, piece: int) -> float:
    """Nanoseconds per byte until the body's end or its refusal."""
    scanner = MemberScanner()
    start = time.perf_counter()
    taken = 0
    try:
        for taken in range(0, len(body), piece):
            scanner.receive_data(body[taken : taken + piece])
    except MalformedBody:
        pass
    return (time.perf_counter() - start) / (taken + piece) * 1e9


def main() -> None:
    works: dict[str, Callable[[bytes], object]] = {"json.loads": json.loads}
    works |= {
        f"scan in {piece}": lambda body, piece=piece: scan(body, piece) for piece in (65_536, 16_384, 4_096, 1_448)
    }
    for size in (55_000, 100_000, 1_000_000):
        times = best_times([claude_code_body(size, seed) for seed in range(BODIES)], works)
        print(f"body of {size:9,} bytes, us (x json.loads):", end="")
        print(*(f"  {name} {value:.0f} ({value / times['json.loads']:.2f})" for name, value in times.items()))
    print("hostile, ns per byte: size x piece")
    for name in hostile_values(1):
        figures = []
        for size in HOSTILE_BYTES:
            body = b'{"model":"m","a":[' + hostile_values(size)[name]
            figures += [f"{size // 1000}k x {piece}: {hostile_time(body, piece):6.1f}" for piece in (65_536, 1_000)]
        print(f"  {name:17}", "   ".join(figures))


if __name__ == "__main__":
    main()
