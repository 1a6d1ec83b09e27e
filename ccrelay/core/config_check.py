"""The rules that connect several keys. Each looks at values only where nothing else is wrong with them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from ccrelay.core.config_credentials import check_credentials
from ccrelay.core.config_document import Path, Report, format_path
from ccrelay.core.config_listen import Listener, ListenError, Reach, parse_listener
from ccrelay.core.config_schema import AZURE_RESOURCE, config_schema, nodes
from ccrelay.core.config_validate import suggestion

Tree = dict[str, Any]

_KEYLESS = frozenset({"ollama", "bedrock", "vertex", "simulator"})
_WEIGHTED = frozenset({"weighted_round_robin", "weighted_failover"})
_HEADER_TEXT = re.compile(r"[!-~]([ -~]*[!-~])?")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_LINE_ENDS = re.compile(r"[\n\t]")
_MESSAGES_PATH = re.compile(r"/v1(/messages)?/*")
_HOST = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9._-]*[A-Za-z0-9_])?\.?|[0-9A-Fa-f:.]+")


def check_given(tree: Tree, report: Report) -> None:
    """What can be said of each value by itself, beyond the schema: characters that cannot be, keys without effect.

    tree: as given, before the defaults, disabled providers included.
    """
    for node in nodes(tree):
        if isinstance(node.value, dict) and any(_CONTROL.search(key) for key in node.value):
            report.error(node.path, "a key here holds a line break or a control character")
        if not isinstance(node.value, str) or not report.clean(node.path):
            continue
        text = _LINE_ENDS.sub("", node.value) if "x-multiline" in node.schema else node.value
        if "x-secret" not in node.schema:
            if _CONTROL.search(text):
                report.error(node.path, "holds a line break or a control character")
        elif text and not _HEADER_TEXT.fullmatch(text):
            report.error(node.path, "begins or ends with white space, or holds something other than printable ASCII")
    for path, provider in _enabled_providers(tree, report):
        for key in provider:
            types = config_schema()["$defs"]["provider"]["properties"].get(key, {}).get("x-types")
            if types is not None and provider["type"] not in types:
                report.warn((*path, key), f"has no effect under type {provider['type']}")


def check_rules(tree: Tree, report: Report) -> None:
    """Everything else.

    tree: with the defaults filled in. Values where ``report`` is not clean may be of any kind, and are not looked at.
    """
    _check_secrets(tree, report)
    _check_server(tree, report)
    _check_names(tree, report)
    for path, provider in _enabled_providers(tree, report):
        _check_provider(path, provider, tree, report)
    _check_routing(tree, report)
    _check_weights(tree, report)


def _enabled_providers(tree: Tree, report: Report) -> Iterator[tuple[Path, Tree]]:
    """The providers that are in use and whose type is known, with their paths."""
    for path, provider in _providers(tree):
        if report.clean((*path, "type"), (*path, "enabled")) and provider.get("enabled", True):
            yield path, provider


def _providers(tree: Tree) -> Iterator[tuple[Path, Tree]]:
    providers = tree.get("providers")
    for i, provider in enumerate(providers if isinstance(providers, list) else []):
        if isinstance(provider, dict):
            yield ("providers", i), provider


def _check_secrets(tree: Tree, report: Report) -> None:
    """No secret is empty, except where that says that only the client's own credential is used."""
    disabled = {path for path, provider in _providers(tree) if provider.get("enabled") is False}
    may_be = {
        path
        for path, provider in _providers(tree)
        if provider.get("type") == "anthropic" or not report.clean((*path, "type"))
    }
    for node in nodes(tree):
        if "x-secret" not in node.schema or node.value != "" or node.path[:2] in disabled:
            continue
        if node.path[-1] == "bearer_secret":
            report.error(node.path, "is empty; leave the key out if any bearer token shall pass")
        elif node.path[-1] != "key" or node.path[:2] not in may_be:
            report.error(node.path, "is empty; a secret must not be")


def _check_server(tree: Tree, report: Report) -> None:
    server, auth = ("server",), ("server", "auth")
    listeners = _listeners(tree, "server", report)
    for path, listener in _listeners(tree, "admin", report):
        if listener.reach is not Reach.LOCAL:
            report.error(path, "must be on loopback or a unix socket, as it asks for no credential: 127.0.0.1:8788")
        if any(listener.endpoint == other.endpoint for _, other in listeners):
            report.error(path, "is a client listener too; the admin listener needs an address of its own")
    if report.clean(auth, (*server, "api_key")):
        _check_auth(tree["server"], listeners, report)
    budget, largest = "max_inflight_body_bytes", "max_body_bytes"
    if report.clean((*server, budget), (*server, largest)) and 0 < tree["server"][budget] < tree["server"][largest]:
        report.error((*server, budget), f"must be at least `{largest}`, or the largest body never fits")


def _check_auth(server: Tree, listeners: list[tuple[Path, Listener]], report: Report) -> None:
    """Whoever listens beyond loopback must ask clients who they are, or say in words that he does not."""
    auth = server["auth"]
    if "api_key" in server and server["api_key"] != auth.get("api_key", server["api_key"]):
        report.error(("server", "api_key"), "differs from `server.auth.api_key`, its newer name: remove this one")
    if "bearer_secret" in auth and not auth["allow_bearer"]:
        report.warn(("server", "auth", "bearer_secret"), "has no effect without `allow_bearer: true`")
    any_bearer = auth["allow_bearer"] and "bearer_secret" not in auth
    guarded = "api_key" in auth or "api_key" in server or (auth["allow_bearer"] and not any_bearer)
    for path, listener in listeners:
        if listener.reach is Reach.LOCAL or auth["allow_unauthenticated"]:
            continue
        where = "listens beyond loopback" if listener.reach is Reach.BEYOND else "may listen beyond loopback"
        if any_bearer:
            report.error(path, f"{where}, where `allow_bearer` needs a `server.auth.bearer_secret`")
        elif not guarded:
            report.error(
                path,
                f"{where} without client authentication: set `server.auth.api_key`, or listen on 127.0.0.1, "
                "or say `server.auth.allow_unauthenticated: true`",
            )


def _listeners(tree: Tree, section: str, report: Report) -> list[tuple[Path, Listener]]:
    """The listeners of a section with their paths; what is wrong with an address is reported."""
    path: Path = (section, "listen")
    if not report.clean(path):
        return []
    found: list[tuple[Path, Listener]] = []
    given = tree[section].get("listen", [])
    for i, text in enumerate(given if isinstance(given, list) else [given]):
        where = (*path, i) if isinstance(given, list) else path
        try:
            listener = parse_listener(text)
        except ListenError as error:
            report.error(where, str(error))
            continue
        if any(listener.endpoint == other.endpoint for _, other in found):
            report.error(where, "the same address twice")
        found.append((where, listener))
    return found


def _check_names(tree: Tree, report: Report) -> None:
    first: dict[str, Path] = {}
    for path, provider in _providers(tree):
        if report.clean((*path, "name")) and first.setdefault(provider["name"], path) != path:
            before = format_path(first[provider["name"]])
            report.error((*path, "name"), f"the same name as {before}; names are unique")
    if report.clean(("providers",)) and not any(True for _ in _enabled_providers(tree, report)):
        report.error(("providers",), "every provider is disabled: enable at least one")


def _check_provider(path: Path, provider: Tree, tree: Tree, report: Report) -> None:
    if report.clean((*path, "keys"), ("server", "auth", "allow_subscription")):
        _check_keys(path, provider, tree["server"]["auth"]["allow_subscription"], report)
    check_credentials(path, provider, report)
    if report.clean((*path, "azure_resource_name"), (*path, "base_url")):
        _check_base_url(path, provider, report)
    if report.clean((*path, "proxy")) and "proxy" in provider:
        _check_url((*path, "proxy"), provider["proxy"], ("http",), report)
    if report.clean((*path, "model_mapping")):
        for name in provider["model_mapping"]:
            if "*" in name[:-1]:
                report.error((*path, "model_mapping", name), "a `*` has a meaning only at the end of a name")
    fail = (*path, "simulator", "fail")
    if report.clean(fail) and 0 < provider.get("simulator", {}).get("fail", {}).get("status", 0) < 400:
        report.error((*fail, "status"), "must be 400 or above, or 0")


def _check_keys(path: Path, provider: Tree, allow_subscription: bool, report: Report) -> None:
    kind, keys = provider["type"], provider["keys"]
    own_only = kind == "anthropic" and allow_subscription
    entra = kind == "azure" and ("azure_client_secret" in provider or provider["azure_managed_identity"])
    if not keys and kind not in _KEYLESS and not own_only and not entra:
        hint = ", or `server.auth.allow_subscription` for the clients' own" if kind == "anthropic" else ""
        report.error((*path, "keys"), f"at least one key is required for {kind}{hint}")
    first: dict[str, int] = {}
    for i, key in enumerate(keys):
        where = (*path, "keys", i, "key")
        before = first.setdefault(key["key"], i)
        if not key["key"] and len(keys) > 1:
            report.error(where, "is empty, which means the client's own credential: it must then be the only key")
        elif not key["key"] and not allow_subscription:
            report.warn(where, "is empty, and `server.auth.allow_subscription` is off: this provider can answer nobody")
        elif before != i:
            report.error(where, f"the same secret as keys[{before}] of this provider")


def _check_base_url(path: Path, provider: Tree, report: Report) -> None:
    where, url = (*path, "base_url"), provider.get("base_url")
    if url is None:
        return
    if provider["type"] == "azure" and AZURE_RESOURCE in url:
        if "azure_resource_name" not in provider:
            example = "such as `azure_resource_name: my-azure-resource`"
            report.error((*path, "azure_resource_name"), f"is required, {example}, unless there is a `base_url`")
        return
    _check_url(where, url, ("http", "https"), report)
    if report.clean(where) and _MESSAGES_PATH.fullmatch(urlsplit(url).path) and provider["type"] != "vertex":
        report.warn(where, "ends in the path that is added to it: requests will go to `/v1/v1/messages` or the like")


def _check_url(where: Path, url: str, schemes: tuple[str, ...], report: Report) -> None:
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        report.error(where, "is not a URL")
        return
    if parts.scheme not in schemes or not _HOST.fullmatch(host):
        report.error(where, f"must be a URL with a host: {' or '.join(f'{scheme}://host' for scheme in schemes)}")
    elif "@" in parts.netloc:
        report.error(where, "must not hold a user name or password")
    elif "?" in url or "#" in url or not _HEADER_TEXT.fullmatch(url) or " " in url:
        report.error(where, "must not have a query, a fragment or white space")


def _check_routing(tree: Tree, report: Report) -> None:
    mapping: Path = ("routing", "model_mapping")
    default: Path = ("routing", "default_provider")
    strategy: Path = ("routing", "strategy")
    if not report.clean(mapping, default):
        return
    routing = tree["routing"]
    asked = [((*mapping, model), name) for model, name in routing["model_mapping"].items()]
    asked += [(default, routing["default_provider"])] if "default_provider" in routing else []
    if report.clean(strategy) and routing["strategy"] == "model_based" and not asked:
        report.error(strategy, "`model_based` needs `routing.model_mapping` or `routing.default_provider`")
    providers = list(_providers(tree))
    known = [path for path, _ in providers if report.clean((*path, "name"), (*path, "enabled"))]
    if not isinstance(tree.get("providers"), list) or len(known) < len(tree["providers"]):
        return  # a provider whose name cannot be read may be the one that is meant
    enabled = {provider["name"]: provider["enabled"] for _, provider in providers}
    for where, name in asked:
        if name not in enabled:
            report.error(where, f"no provider has this name{suggestion(name, enabled)}")
        elif not enabled[name]:
            report.warn(where, "this provider is disabled, so the entry counts as absent")


def _check_weights(tree: Tree, report: Report) -> None:
    """One weight of 0 stands for 1, as in older files. Where all are 0, whoever wrote that meant something else."""
    strategy: Path = ("routing", "strategy")
    enabled = list(_enabled_providers(tree, report))
    for path, provider in enabled:
        where = (*path, "pooling", "strategy")
        if not report.clean((*path, "keys"), (*path, "pooling")) or provider["pooling"]["strategy"] != "weighted":
            continue
        if provider["pooling"].get("enabled", True) and _all_zero([key["weight"] for key in provider["keys"]]):
            report.error(where, "every key has weight 0: give at least one a `weight` above 0, or use `least_loaded`")
    if not report.clean(strategy) or tree["routing"]["strategy"] not in _WEIGHTED:
        return
    read = ((*path, key) for path, _ in _providers(tree) for key in ("type", "enabled", "keys", "weight"))
    if report.clean(*read) and _all_zero([_weight(provider) for _, provider in enabled]):
        report.error(strategy, "every provider has weight 0: give at least one a `weight` above 0, or use `failover`")


def _weight(provider: Tree) -> float:
    weight: float = provider.get("weight", provider["keys"][0]["weight"] if provider["keys"] else 1)
    return weight


def _all_zero(weights: list[float]) -> bool:
    """Whether nobody has a weight. One alone needs none: there is nothing to choose."""
    return len(weights) > 1 and not any(weights)
