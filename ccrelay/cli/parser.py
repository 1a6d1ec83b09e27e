"""Every subcommand's arguments. The completion scripts and the page in docs/ are about this tree."""

from __future__ import annotations

import argparse
from typing import Any

from ccrelay.cli.templates import TEMPLATES

RELAY_URL = "http://127.0.0.1:8787"
"""Where a relay listens whose configuration says nothing."""

_CONFIG = (
    "the configuration file, YAML or TOML; without, ./config.{yaml,toml}, ~/.config/cc-relay/ and /etc are searched"
)


def build_parser() -> argparse.ArgumentParser:
    """The whole command. A parsed namespace names in ``module`` the module of this package whose ``run`` takes it."""
    parser = argparse.ArgumentParser(
        prog="cc-relay",
        description="A streaming relay between Anthropic Messages clients and the providers that can answer them.",
        epilog="Exit status: 0 all is well, 1 it is not or could not be done, 2 wrong arguments.",
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _serve(_command(commands, "serve", "serve", "run the relay in the foreground, as `twistd -n ccrelay` does"))
    _config(_command(commands, "check", "check", "validate a configuration: every error and every warning"))
    _explain(_command(commands, "explain", "explain", "say where a request would go and what would be sent there"))
    _init(_command(commands, "init", "init", "write a commented configuration for the providers you use"))
    _claude(commands)
    _doctor(_command(commands, "doctor", "doctor", "check what stands between clients, relay and providers"))
    _status(_command(commands, "status", "status", "print what a running relay is doing"))
    _top(_command(commands, "top", "status", "print that again and again, until interrupted"))
    _command(commands, "version", "version", "print the versions of the relay and of what it runs on")
    _completion(_command(commands, "completion", "completion", "print a completion script for a shell"))
    return parser


def _command(commands: Any, name: str, module: str, summary: str) -> argparse.ArgumentParser:
    """One subcommand. summary: completes "cc-relay can ..."."""
    made: argparse.ArgumentParser = commands.add_parser(
        name, help=summary, description=f"{summary[0].upper()}{summary[1:]}."
    )
    made.set_defaults(module=module)
    return made


def _config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", "-c", metavar="PATH", help=_CONFIG)


def _serve(parser: argparse.ArgumentParser) -> None:
    _config(parser)


def _explain(parser: argparse.ArgumentParser) -> None:
    _config(parser)
    parser.epilog = (
        "The request's body is read from standard input. Nothing is sent and no credential is fetched: where a secret "
        "would stand, its placeholder does. What a running relay has learned (resting keys, open circuits, sessions) "
        "is not known here."
    )
    parser.add_argument(
        "--header", action="append", default=[], metavar="'NAME: VALUE'", help="a header line of the client's"
    )
    parser.add_argument("--session", metavar="ID", help="the session, as x-claude-code-session-id would name it")
    parser.add_argument(
        "--path",
        default="/v1/messages",
        metavar="PATH",
        help="what the client calls, with its query: /v1/messages (the default) or /v1/messages/count_tokens",
    )
    parser.add_argument("--json", action="store_true", help="print it as JSON")


def _init(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--provider",
        action="append",
        choices=sorted(TEMPLATES),
        help="a provider to begin with; give it as often as you have providers, the first is asked first",
    )
    parser.add_argument("--output", "-o", default="config.yaml", metavar="PATH", help="the file (default: config.yaml)")
    parser.add_argument("--force", action="store_true", help="replace the file if it is there")


def _claude(commands: Any) -> None:
    claude = commands.add_parser("claude", help="point Claude Code at the relay", description="Point Claude Code here.")
    actions = claude.add_subparsers(metavar="ACTION", required=True)
    setup = _command(actions, "setup", "claude_settings", "write the relay's address into Claude Code's settings")
    setup.set_defaults(action="setup")
    setup.add_argument(
        "--base-url", default=RELAY_URL, metavar="URL", help=f"the relay's address (default {RELAY_URL})"
    )
    setup.add_argument(
        "--token",
        metavar="TOKEN",
        help="what the relay asks of its clients (server.auth.api_key); - reads it from standard input",
    )
    setup.add_argument(
        "--keep-login",
        action="store_true",
        help="leave Claude Code its own login, for a relay with server.auth.allow_subscription",
    )
    remove = _command(actions, "remove", "claude_settings", "put back what stood in the settings before")
    remove.set_defaults(action="remove")
    for parser in (setup, remove):
        parser.add_argument("--settings", metavar="PATH", help="the settings file (default: ~/.claude/settings.json)")


def _doctor(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "Without --spend no request is sent that could cost a token: streams are then examined only where a simulator "
        "answers them. With it, each provider and the address get one call of a few tokens."
    )
    _config(parser)
    parser.add_argument("--url", metavar="URL", help="an address at which clients reach the relay, to be examined too")
    parser.add_argument("--token", metavar="TOKEN", help="what that address asks of clients; - reads standard input")
    parser.add_argument("--model", metavar="NAME", help="the model to ask for (default: the first one listed)")
    parser.add_argument("--spend", action="store_true", help="make calls that cost a few tokens")


def _status(parser: argparse.ArgumentParser) -> None:
    _config(parser)
    parser.add_argument("--url", metavar="URL", help="the admin listener, as an http URL or unix:PATH")
    parser.add_argument("--json", action="store_true", help="print the document as it is")
    parser.set_defaults(repeat=False)


def _top(parser: argparse.ArgumentParser) -> None:
    _config(parser)
    parser.add_argument("--url", metavar="URL", help="the admin listener, as an http URL or unix:PATH")
    parser.add_argument(
        "--interval", type=_seconds, default=2.0, metavar="SECONDS", help="between two looks (default 2)"
    )
    parser.set_defaults(repeat=True)


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0.1 <= seconds <= 3600:  # a tighter loop would load the relay, a longer one is none
        raise argparse.ArgumentTypeError("must be between 0.1 and 3600")
    return seconds


def _completion(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=("bash", "fish", "zsh"))
