"""``cc-relay completion``: scripts that let a shell complete the command, made from its arguments.

All three get a table of words for every subcommand; where a value is wanted they fall back to file names.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass

from ccrelay.cli.parser import build_parser


@dataclass(frozen=True, slots=True)
class Level:
    """What can follow one (sub)command. path: its words after ``cc-relay``. words: each with its help.

    valued: the options among them that take a value. choices: of such options, and under ``""`` of the positional.
    """

    path: tuple[str, ...]
    words: dict[str, str]
    valued: frozenset[str]
    choices: dict[str, tuple[str, ...]]


def run(arguments: argparse.Namespace) -> int:
    """Print the script for ``arguments.shell``."""
    made = list(levels(build_parser()))
    print({"bash": bash, "zsh": zsh, "fish": fish}[arguments.shell](made), end="")
    return 0


def levels(parser: argparse.ArgumentParser, path: tuple[str, ...] = ()) -> Iterator[Level]:
    """The command and all that are below it."""
    words: dict[str, str] = {}
    valued: set[str] = set()
    choices: dict[str, tuple[str, ...]] = {}
    below: list[tuple[str, argparse.ArgumentParser]] = []
    for action in parser._actions:  # noqa: SLF001  (argparse has no public way to look at a parser)
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001
            below += action.choices.items()
            told = {choice.dest: choice.help or "" for choice in action._choices_actions}  # noqa: SLF001
            words |= {name: told.get(name) or made.description or "" for name, made in action.choices.items()}
        elif not action.option_strings:
            choices[""] = tuple(map(str, action.choices or ()))
            words |= dict.fromkeys(choices[""], action.help or "")
        else:
            words |= dict.fromkeys(action.option_strings, action.help or "")
            if action.nargs != 0:
                valued.update(action.option_strings)
                if action.choices:
                    choices |= dict.fromkeys(action.option_strings, tuple(map(str, action.choices)))
    yield Level(path, words, frozenset(valued), choices)
    for name, made in below:
        yield from levels(made, (*path, name))


def bash(made: list[Level]) -> str:
    """For bash 4 and later, without the bash-completion package."""
    return f"""\
# cc-relay: completion for bash. Load it with: source <(cc-relay completion bash)
{_table(made)}
_cc_relay() {{
    local word="${{COMP_WORDS[COMP_CWORD]}}" previous="${{COMP_WORDS[COMP_CWORD-1]}}" known i
    _cc_relay_path "${{COMP_WORDS[@]:1:COMP_CWORD-1}}"
    if known=$(_cc_relay_values "$_cc_relay_found" "$previous"); then
        if [[ -n $known ]]; then COMPREPLY=($(compgen -W "$known" -- "$word"))
        else COMPREPLY=($(compgen -f -- "$word")); fi
    else
        COMPREPLY=($(compgen -W "$(_cc_relay_words "$_cc_relay_found")" -- "$word"))
    fi
}}
complete -o filenames -F _cc_relay cc-relay
"""


def zsh(made: list[Level]) -> str:
    """For zsh with compinit."""
    return f"""\
#compdef cc-relay
# cc-relay: completion for zsh. Load it with: source <(cc-relay completion zsh)
{_table(made)}
_cc_relay() {{
    local known
    _cc_relay_path "${{(@)words[2,CURRENT-1]}}"
    if known=$(_cc_relay_values "$_cc_relay_found" "${{words[CURRENT-1]}}"); then
        if [[ -n $known ]]; then compadd -- ${{=known}}; else _files; fi
    else
        compadd -- ${{=$(_cc_relay_words "$_cc_relay_found")}}
    fi
}}
compdef _cc_relay cc-relay
"""


def fish(made: list[Level]) -> str:
    """For fish 3 and later."""
    lines = [
        "# cc-relay: completion for fish. Load it with: cc-relay completion fish | source",
        "complete -c cc-relay -f",
    ]
    for level in made:
        rest = [f"__fish_seen_subcommand_from {word}" for word in level.path]
        # Where subcommands follow, only as long as none of them has been given.
        plain = [word for word in level.words if not word.startswith("-")]
        if plain and level.choices.get("") is None:
            rest.append(f"not __fish_seen_subcommand_from {' '.join(plain)}")
        condition = "; and ".join(rest) or "true"
        for word, told in level.words.items():
            lines.append(f"complete -c cc-relay -n {_quoted(condition)} {_fish_word(level, word)} -d {_quoted(told)}")
    return "\n".join(lines) + "\n"


def _fish_word(level: Level, word: str) -> str:
    if not word.startswith("-"):
        return f"-a {word}"
    flag = f"-l {word[2:]}" if word.startswith("--") else f"-s {word[1:]}"
    if word not in level.valued:
        return flag
    known = level.choices.get(word)
    return f"{flag} -x -a {_quoted(' '.join(known))}" if known else f"{flag} -r -F"


def _table(made: list[Level]) -> str:
    """Functions for bash and zsh: ``_path`` finds the subcommand among words, the others tell what can follow it."""
    paths = "|".join(_quoted(" ".join(level.path)) for level in made if level.path)
    words, values = [], []
    for level in made:
        path = " ".join(level.path)
        words.append(f"    {_quoted(path)}) printf '%s\\n' {_quoted(' '.join(level.words))} ;;")
        for option in sorted(level.valued):
            known = " ".join(level.choices.get(option, ()))
            values.append(f"    {_quoted(f'{path}|{option}')}) printf '%s\\n' {_quoted(known)} ;;")
    return f"""\
_cc_relay_path() {{
    _cc_relay_found=""
    local word try
    for word in "$@"; do
        try="${{_cc_relay_found:+$_cc_relay_found }}$word"
        case "$try" in {paths}) _cc_relay_found="$try" ;; esac
    done
}}
_cc_relay_words() {{
    case "$1" in
{chr(10).join(words)}
    esac
}}
_cc_relay_values() {{
    case "$1|$2" in
{chr(10).join(values)}
    *) return 1 ;;
    esac
}}"""


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"
