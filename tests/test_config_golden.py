"""The examples that users paste load as they stand."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ccrelay.core.settings import ProviderSettings
from tests.config_loading import problems_of, settings_of

GOLDEN = sorted((Path(__file__).parent / "golden" / "config").glob("*.yaml"))
VARIABLE = re.compile(r"\$\{([A-Z_]+)\}")


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def environment_for(text: str) -> dict[str, str]:
    return {name: f"{name.lower().replace('_', '-')}-1" for name in VARIABLE.findall(text)}


def golden(name: str) -> list[ProviderSettings]:
    text = text_of(Path(__file__).parent / "golden" / "config" / f"{name}.yaml")
    return list(settings_of(text, environment_for(text)).providers)


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_an_example_loads_with_the_variables_it_names(path: Path) -> None:
    text = text_of(path)
    named = re.findall(r'- name: "(.+)"', text)

    assert [provider.name for provider in settings_of(text, environment_for(text)).providers] == named != []


@pytest.mark.parametrize(
    "path", [path for path in GOLDEN if VARIABLE.search(text_of(path))], ids=lambda path: path.stem
)
def test_an_example_without_its_variables_names_each_with_path_and_line(path: Path) -> None:
    text = text_of(path)
    lines = {name: number for number, line in enumerate(text.splitlines(), 1) for name in VARIABLE.findall(line)}
    problems = problems_of(text)

    assert len(problems) == len(lines)
    for problem, (name, line) in zip(problems, lines.items(), strict=True):
        assert problem.startswith(f"line {line}: providers[")
        assert f"the environment variable {name} is not set" in problem


def test_what_the_anthropic_example_says() -> None:
    [anthropic] = golden("anthropic")

    assert (anthropic.priority, anthropic.keys[0].rpm_limit) == (2, 60)
    assert (anthropic.keys[0].itpm_limit, anthropic.keys[0].otpm_limit) == (50000, 50000)
    assert anthropic.models[0] == "claude-sonnet-4-5-20250514"


def test_what_the_failover_example_says() -> None:
    assert [(p.name, p.priority) for p in golden("failover")] == [("anthropic", 2), ("zai", 1), ("ollama", 0)]


def test_what_the_cloud_examples_say() -> None:
    [bedrock], [azure], [vertex] = golden("bedrock"), golden("azure"), golden("vertex")

    assert bedrock.aws is not None
    assert bedrock.aws.region == "us-east-1"
    assert azure.base_url == "https://my-azure-resource.services.ai.azure.com/anthropic"
    assert azure.azure is not None
    assert azure.azure.api_version == "2024-06-01"
    assert vertex.gcp is not None
    assert (vertex.gcp.project_id, vertex.gcp.region) == ("google-cloud-project-1", "us-east5")


def test_what_the_docker_example_says() -> None:
    [ollama] = golden("ollama-docker")

    assert ollama.base_url == "http://host.docker.internal:11434"
