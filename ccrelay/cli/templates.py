"""The text of a first configuration, by provider: what ``cc-relay init`` puts together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

HEAD: Final = """\
# The configuration of cc-relay. Every key is described in docs/configuration.md.
#
# ${NAME} is the environment variable NAME: keep secrets there, not here. Check this file with `cc-relay check`, run the
# relay with `cc-relay serve`, and see where a request would go with `cc-relay explain`.

server:
  # Where clients connect. Beyond this machine only with auth.api_key.
  listen: "127.0.0.1:8787"
#  auth:
#    api_key: "${CC_RELAY_API_KEY}"

# The first provider is asked first; the next one when it cannot answer.
providers:
"""

TEMPLATES: Final[dict[str, str]] = {
    "anthropic": """\
  - name: "anthropic"
    type: "anthropic"
    keys:
      - key: "${ANTHROPIC_API_KEY}"
""",
    "zai": """\
  # GLM models. Claude's names are mapped: exactly, else by the longest that ends in "*".
  - name: "zai"
    type: "zai"
    keys:
      - key: "${ZAI_API_KEY}"
    model_mapping:
      "claude-opus-*": "glm-5.3"
      "claude-sonnet-*": "glm-5.3"
      "claude-haiku-*": "glm-5.3-flash"
""",
    "minimax": """\
  - name: "minimax"
    type: "minimax"
    keys:
      - key: "${MINIMAX_API_KEY}"
    model_mapping:
      "claude-*": "MiniMax-M3"
""",
    "ollama": """\
  # A model that is installed, and how much context Ollama gives it: it cuts what does not fit without a word.
  - name: "ollama"
    type: "ollama"
    context_window: 65536
    model_mapping:
      "claude-*": "qwen3:32b"
    models: ["qwen3:32b"]
""",
    "bedrock": """\
  # Without the two keys AWS's usual chain applies: environment, ~/.aws, roles. Claude's names are known there.
  - name: "bedrock"
    type: "bedrock"
    aws_region: "us-east-1"
#    aws_access_key_id: "${AWS_ACCESS_KEY_ID}"
#    aws_secret_access_key: "${AWS_SECRET_ACCESS_KEY}"
""",
    "azure": """\
  # On the right of the mapping stand the names of your deployments.
  - name: "azure"
    type: "azure"
    azure_resource_name: "my-azure-resource"
    keys:
      - key: "${AZURE_API_KEY}"
    model_mapping:
      "claude-opus-*": "claude-opus-5-5"
""",
    "vertex": """\
  # With Google's application default credentials, or a file of your own.
  - name: "vertex"
    type: "vertex"
    gcp_project_id: "${GOOGLE_CLOUD_PROJECT}"
    gcp_region: "global"
#    gcp_credentials_file: "/etc/cc-relay/gcp.json"
""",
    "simulator": """\
  # Answers at no cost and without a network, while no other provider could be asked.
  - name: "simulator"
    type: "simulator"
""",
}
"""An entry of ``providers`` for each type, ready to be used where its variables are set."""

_MOST_PRIORITY: Final = 2
"""The highest ``priority`` there is; whoever comes later in a long list shares the lowest."""


def configuration_for(types: Sequence[str]) -> str:
    """A configuration with a provider of each of these types, the first asked first."""
    ranked = [f"{TEMPLATES[name]}    priority: {max(0, _MOST_PRIORITY - rank)}\n" for rank, name in enumerate(types)]
    return HEAD + "\n".join(ranked)
