"""What the package, its services and the container promise, as far as that can be read: they agree with one another."""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import uuid
from pathlib import Path

import pytest
import yaml

import ccrelay
from ccrelay.cli.parser import build_parser
from ccrelay.tap import Options
from tests.config_loading import load_text

ROOT = Path(__file__).resolve().parent.parent
DEBIAN = ROOT / "debian"
UNIT = (DEBIAN / "cc-relay.service").read_text("utf-8")
INIT = (DEBIAN / "cc-relay.init").read_text("utf-8")
SHELL_SCRIPTS = ["cc-relay.init", "cc-relay.postinst", "cc-relay.postrm", "tests/smoke"]


def found(pattern: str, text: str) -> str:
    """The one place in the text that the pattern's group matches."""
    [match] = re.findall(pattern, text, re.MULTILINE)
    return str(match)


@pytest.fixture(scope="module")
def conffile() -> str:
    """The configuration that is installed, made by the command of debian/rules."""
    command = found(r"^\t(sed .*) etc/cc-relay\.yaml > debian/built/cc-relay\.yaml$", (DEBIAN / "rules").read_text())
    made = subprocess.run(
        ["sh", "-c", f"{command.replace('$$', '$')} etc/cc-relay.yaml"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return made.stdout


@pytest.mark.parametrize("name", SHELL_SCRIPTS)
def test_shell_scripts_parse(name: str) -> None:
    done = subprocess.run(["sh", "-n", str(DEBIAN / name)], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (0, "")


def test_everything_that_stops_it_waits_longer_than_it_drains(conffile: str) -> None:
    drain = load_text(conffile).settings.server.drain_timeout
    compose = yaml.safe_load((ROOT / "compose.yaml").read_text("utf-8"))
    contained = load_text(
        compose["configs"]["relay"]["content"].replace("$$", "$"), {"CC_RELAY_API_KEY": "k"}
    ).settings.server.drain_timeout

    assert drain > load_text((ROOT / "etc/cc-relay.yaml").read_text("utf-8")).settings.server.drain_timeout
    assert int(found(r"^TimeoutStopSec=(\d+)$", UNIT)) > drain
    assert int(found(r"^STOP_SECONDS=(\d+)$", INIT)) > drain
    assert int(compose["services"]["relay"]["stop_grace_period"].removesuffix("s")) > contained


def test_unit_and_init_script_start_the_same_daemon_with_the_same_configuration() -> None:
    by_unit = found(r"^ExecStart=(.*)$", UNIT).split()
    by_script = found(r'"\$OUTPUT" (.*)$', INIT).replace("$DAEMON", found(r"^DAEMON=(.*)$", INIT)).replace('"', "")

    assert [word.replace("${", "$").replace("}", "") for word in by_unit] == by_script.split()
    assert found(r"^Environment=CC_RELAY_CONFIG=(\S+)", UNIT) == found(r"^CC_RELAY_CONFIG=(.*)$", INIT)
    assert found(r"^User=(.*)$", UNIT) == found(r"^DAEMON_USER=(.*)$", INIT)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
@pytest.mark.parametrize("name", ["cc-relay.service", "cc-relay.socket"])
def test_systemd_finds_no_fault_in_the_units(name: str, tmp_path: Path) -> None:
    program = tmp_path / "twistd3"
    program.write_text("")
    program.chmod(0o755)
    (tmp_path / "cc-relay.service").write_text(UNIT.replace("/usr/bin/twistd3", str(program)))
    shutil.copy(DEBIAN / "systemd/cc-relay.socket", tmp_path)

    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(tmp_path / name)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_units_stop_waits_for_a_process_that_ends_its_calls_since_an_upgrade(tmp_path: Path) -> None:
    invocation = uuid.uuid4().hex
    environment = {**os.environ, "INVOCATION_ID": invocation}
    ended = tmp_path / "ended"
    # The process before goes on for a while after the one in charge, which holds the other end of its input, has gone.
    for_before, for_main = os.pipe()
    before = subprocess.Popen(
        ["sh", "-c", 'read nothing; sleep 0.5; echo by itself >"$0"', str(ended)], stdin=for_before, env=environment
    )
    main = subprocess.Popen(["sleep", "600"], pass_fds=[for_main], env=environment)
    os.close(for_before)
    os.close(for_main)
    line = found(r"^ExecStop=-(.*)$", UNIT.replace("\\\n", " "))
    given = {"${MAINPID}": str(main.pid), "${INVOCATION_ID}": invocation}

    try:
        subprocess.run([given.get(word, word) for word in shlex.split(line)], env=environment, check=True, timeout=60)

        assert ended.read_text() == "by itself\n"
    finally:
        main.kill()
        before.kill()
        codes = main.wait(), before.wait()
    assert codes == (-signal.SIGTERM, 0)


def test_every_credential_of_the_unit_is_optional_and_documented() -> None:
    credentials = re.findall(r"^LoadCredential=(.*)$", UNIT, re.MULTILINE)
    readme = (DEBIAN / "README.Debian").read_text("utf-8")

    assert len(set(credentials)) == len(credentials) > 0
    # With a path a missing file would keep the service from starting.
    assert [name for name in credentials if ":" in name or "/" in name] == []
    assert [name for name in credentials if name.removeprefix("cc-relay") not in readme] == []


def test_what_the_installation_protects_is_let_go_by_the_purge() -> None:
    protected = re.findall(r"^ +protect \S+ \S+ \d+ (/\S+)$", (DEBIAN / "cc-relay.postinst").read_text(), re.MULTILINE)
    released = found(r"for path in (.*); do$", (DEBIAN / "cc-relay.postrm").read_text())

    assert sorted(protected) == sorted(released.split())
    assert found(r"CC_RELAY_CONFIG=(/\S+)$", UNIT) in protected


def test_the_environment_file_is_read_alike_by_systemd_and_a_shell() -> None:
    settings = [line.removeprefix("#") for line in (DEBIAN / "cc-relay.default").read_text().splitlines()]
    settings = [line for line in settings if line and not line.startswith(" ")]

    assert len(settings) > 1
    assert [line for line in settings if not re.fullmatch(r"[A-Z_]+=[\w/.-]*", line)] == []


def test_package_and_program_have_one_version() -> None:
    assert found(r"\Acc-relay \(([^)]+)\)", (DEBIAN / "changelog").read_text("utf-8")) == ccrelay.__version__


def test_optional_libraries_are_recommended() -> None:
    extras = re.search(r"extras_require=\{(.*?)\"test\":", (ROOT / "setup.py").read_text("utf-8"), re.DOTALL)
    assert extras is not None
    optional = re.findall(r"\"([a-z-]+)>=", extras[1])
    recommended = re.search(r"^Recommends:\n((?: .*\n)+)", (DEBIAN / "control").read_text("utf-8"), re.MULTILINE)
    assert recommended is not None

    assert len(optional) >= 4
    assert {f"python3-{name}" for name in optional} <= set(re.findall(r"[\w-]+", recommended[1]))


def test_every_override_of_lintian_is_explained() -> None:
    lines = (DEBIAN / "cc-relay.lintian-overrides").read_text("utf-8").splitlines()

    assert [line for before, line in zip(["", *lines], lines, strict=False) if line[0] != "#" != before[:1]] == []


def test_the_manual_names_every_option_and_every_command() -> None:
    page = (DEBIAN / "cc-relay.8").read_text("utf-8")
    options = [entry[0] for entry in (*Options.optParameters, *Options.optFlags)]
    commands = re.findall(r"^    ([a-z]+)\b", build_parser().format_help(), re.MULTILINE)

    assert [name for name in options if f"\\-\\-{name}" not in page] == []
    assert len(commands) > 5
    assert [name for name in commands if not re.search(rf"^\.BR? (?:.* )?{name}\b", page, re.MULTILINE)] == []


def test_the_composed_relay_can_use_its_configuration_and_nobody_gets_in_without_the_key() -> None:
    compose = yaml.safe_load((ROOT / "compose.yaml").read_text("utf-8"))
    service, content = compose["services"]["relay"], compose["configs"]["relay"]["content"]
    escaped = re.sub(r"\$\$", "", content)
    loaded = load_text(content.replace("$$", "$"), {"CC_RELAY_API_KEY": "chosen", "ANTHROPIC_API_KEY": "sk-1"})

    assert "$" not in escaped, "Compose would replace this, not the relay"
    assert set(re.findall(r"\$\$\{(\w+)", content)) == set(service["environment"])
    assert loaded.warnings == ()
    assert loaded.settings.server.auth.api_key is not None
    assert [provider.type for provider in loaded.settings.providers] == ["anthropic", "ollama"]
    assert "host.docker.internal" in str(loaded.settings.providers[1].base_url)
    [port] = service["ports"]
    assert port.split(":")[0] == "127.0.0.1"
    assert loaded.settings.server.listen[0].split(":")[1] == port.split(":")[2]


def test_the_container_is_not_roots_and_asks_the_port_that_it_listens_on() -> None:
    text = (ROOT / "Dockerfile").read_text("utf-8").replace("\\\n", "")
    final = text[text.rindex("\nFROM ") :]
    probe = json.loads(found(r"^HEALTHCHECK .* CMD (\[.*\])$", final))
    listening = load_text((ROOT / "etc/cc-relay.yaml").read_text("utf-8")).settings.server.listen[0]

    assert found(r"^USER (.*)$", final) == found(r"^User=(.*)$", UNIT)
    assert final.index("\nUSER ") < final.index("\nENTRYPOINT ")
    ast.parse(probe[-1])
    assert found(r"127\.0\.0\.1:(\d+)/health", probe[-1]) == listening.split(":")[1] == found(r"^EXPOSE (\d+)$", final)


def test_the_container_is_built_of_what_is_not_ignored() -> None:
    kept = re.findall(r"^!(.*)$", (ROOT / ".dockerignore").read_text("utf-8"), re.MULTILINE)
    documents = (DEBIAN / "cc-relay.docs").read_text().split()
    needed = {"setup.py", "pyproject.toml", "LICENSE", "ccrelay", "debian", "twisted", "etc"}
    needed |= {"*.md" if name.endswith(".md") else name for name in documents}

    assert needed <= set(kept)
    assert [pattern for pattern in kept if not list(ROOT.glob(pattern))] == []
