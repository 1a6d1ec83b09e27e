"""Azure AI Foundry's stand-in: one resource with its key and deployments, and who issues tokens for it.

    python -m tests.e2e.azure_upstream          from the checkout's root

Tokens are issued as Entra ID does for an application, and as App Service does for a managed identity; see
`cloud_upstream.py` for everything else.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any, ClassVar
from urllib.parse import parse_qs

from tests.e2e.cloud_upstream import CloudUpstream, Refused, form_of, serve, values

API_KEY = "canary-azure-key-0001"
TENANT = "11111111-2222-3333-4444-555555555555"
CLIENT = "66666666-7777-8888-9999-000000000000"
CLIENT_SECRET = "canary~entra.secret&="
SUBSCRIPTION = "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee"
IDENTITY_HEADER = "canary-identity-header"
DEPLOYMENTS = frozenset({"claude-opus-5-5", "claude-haiku-5-5", "prod-opus"})

LOGIN_PATH = f"/{TENANT}/oauth2/v2.0/token"
IDENTITY_PATH = "/msi/token"
PREFIX = "/anthropic"
_CALLS = frozenset({f"{PREFIX}/v1/messages", f"{PREFIX}/v1/messages/count_tokens"})
_SCOPE = "https://ai.azure.com/.default"


def azure_error(code: str, message: str) -> dict[str, Any]:
    """Azure's own document of an error."""
    return {"error": {"code": code, "message": message}}


def _no_token(status: int, code: str, why: str) -> Refused:
    return Refused(status, {"error": code, "error_description": f"{why} Trace ID: {SUBSCRIPTION}"}, why)


class AzureUpstream(CloudUpstream):
    """One resource, one application, one managed identity."""

    token_paths: ClassVar[frozenset[str]] = frozenset({LOGIN_PATH, IDENTITY_PATH})
    prefix: ClassVar[str] = "eyJ.canary-token-"

    def check_token_request(self, path: str, record: dict[str, Any], body: bytes) -> None:
        if path == LOGIN_PATH:
            self.check_application(record["method"], dict(form_of(body)))
        else:
            self.check_identity(record)

    @staticmethod
    def check_application(method: str, form: dict[str, str]) -> None:
        if method != "POST" or form.get("client_id") != CLIENT:
            raise _no_token(400, "unauthorized_client", f"AADSTS700016: {method} by {form.get('client_id')}.")
        if form.get("client_secret") != CLIENT_SECRET:
            raise _no_token(401, "invalid_client", f"AADSTS7000215: Invalid client secret provided for {CLIENT}.")
        if (form.get("grant_type"), form.get("scope")) != ("client_credentials", _SCOPE):
            raise _no_token(400, "invalid_scope", f"AADSTS70011: {form.get('grant_type')} for {form.get('scope')}.")

    @staticmethod
    def check_identity(record: dict[str, Any]) -> None:
        asked = parse_qs(record["target"].partition("?")[2])
        if record["method"] != "GET" or values(record, "x-identity-header") != [IDENTITY_HEADER]:
            raise _no_token(401, "unauthorized", "not from this machine")
        if asked.get("resource") != ["https://ai.azure.com"] or asked.get("api-version") != ["2019-08-01"]:
            raise _no_token(400, "invalid_request", f"asked for {asked}")

    def check_call(self, path: str, record: dict[str, Any], body: bytes) -> None:
        if path not in _CALLS or record["method"] != "POST":
            raise Refused(404, azure_error("404", "Resource not found"), f"{record['method']} {record['target']}")
        keys = [*values(record, "x-api-key"), *values(record, "api-key")]
        bearers = values(record, "authorization")
        if len(bearers) > 1 or bool(keys) == bool(bearers):
            message = "Access denied due to missing or ambiguous credentials."
            raise Refused(401, azure_error("401", message), f"{len(keys)} keys and {len(bearers)} bearers")
        token = bearers[0].removeprefix("Bearer ") if bearers else None
        if (keys and set(keys) != {API_KEY}) or (token is not None and not self.is_good(token)):
            message = f"Access denied due to invalid subscription key of /subscriptions/{SUBSCRIPTION}/resourceGroups/r"
            raise Refused(401, azure_error("401", message), "another key, or a token that is none")
        if not values(record, "anthropic-version"):
            raise Refused(400, azure_error("BadRequest", "anthropic-version is missing"), "no anthropic-version")
        model = json.loads(body).get("model")
        if model not in DEPLOYMENTS:
            message = f"The API deployment {model} does not exist in /subscriptions/{SUBSCRIPTION}/resourceGroups/r."
            raise Refused(404, azure_error("DeploymentNotFound", message), f"deployment {model}")


if __name__ == "__main__":
    asyncio.run(serve(AzureUpstream()))
