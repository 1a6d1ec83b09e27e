"""Client authentication: which credential opens the door, and which may pass through."""

from __future__ import annotations

import pytest

from ccrelay.core.secret import Secret
from ccrelay.core.settings import AuthSettings
from ccrelay.errors import ClientError
from ccrelay.web.auth import PLACEHOLDER, Admission, Doorkeeper

RELAY_KEY = b"relay-key"
OAUTH = b"sk-ant-oat01-the-users-own"


def door(
    *,
    api_key: bool = False,
    allow_bearer: bool = False,
    bearer_secret: str | None = None,
    allow_subscription: bool = False,
) -> Doorkeeper:
    return Doorkeeper(
        AuthSettings(
            api_key=Secret(RELAY_KEY.decode()) if api_key else None,
            allow_bearer=allow_bearer,
            bearer_secret=Secret(bearer_secret) if bearer_secret else None,
            allow_subscription=allow_subscription,
            allow_unauthenticated=False,
        )
    )


def bearer(token: bytes) -> tuple[bytes, bytes]:
    return (b"authorization", b"Bearer " + token)


def key(value: bytes) -> tuple[bytes, bytes]:
    return (b"x-api-key", value)


def own(admission: Admission) -> tuple[bytes, str] | None:
    credential = admission.own_credential
    return None if credential is None else (credential.header, credential.value.reveal())


def test_without_any_auth_everybody_may_come_in() -> None:
    admission = door().admit(())
    assert admission.principal.method == "open"
    assert own(admission) is None


@pytest.mark.parametrize("line", [key(RELAY_KEY), bearer(RELAY_KEY), (b"authorization", b"bearer relay-key")])
def test_the_relays_key_opens_in_either_header_and_stays_here(line: tuple[bytes, bytes]) -> None:
    admission = door(api_key=True, allow_subscription=True).admit((line,))
    assert admission.principal.method == "api_key"
    assert not admission.principal.own_credential_only
    assert own(admission) is None


@pytest.mark.parametrize(
    "headers",
    [
        (),
        (key(b""),),
        (key(b"relay-kez"),),
        (key(b"relay-key "),),
        (bearer(b"wrong"),),
        ((b"authorization", b"Basic relay-key"),),
        ((b"authorization", b"relay-key"),),
        ((b"cookie", b"x-api-key=relay-key"),),
    ],
)
def test_anything_else_is_turned_away_for_good(headers: tuple[tuple[bytes, bytes], ...]) -> None:
    with pytest.raises(ClientError) as caught:
        door(api_key=True).admit(headers)
    assert (caught.value.status, caught.value.should_retry) == (401, False)


def test_the_first_wrong_header_does_not_hide_the_right_one() -> None:
    admission = door(api_key=True).admit((key(b"wrong"), bearer(RELAY_KEY)))
    assert admission.principal.method == "api_key"
    assert own(admission) is None


def test_a_bearer_must_equal_the_secret_where_there_is_one() -> None:
    keeper = door(allow_bearer=True, bearer_secret="s3cret")
    assert keeper.admit((bearer(b"s3cret"),)).principal.method == "bearer"
    with pytest.raises(ClientError):
        keeper.admit((bearer(b"other"),))
    with pytest.raises(ClientError):
        keeper.admit((key(b"s3cret"),))


def test_any_bearer_passes_without_a_secret_but_not_none() -> None:
    keeper = door(allow_bearer=True)
    assert keeper.admit((bearer(b"whatever"),)).principal.method == "bearer"
    with pytest.raises(ClientError):
        keeper.admit(())


# -- a client's own credential


def test_a_subscription_passes_through_in_the_header_it_came_in() -> None:
    admission = door(allow_subscription=True).admit((bearer(OAUTH),))
    assert own(admission) == (b"authorization", f"Bearer {OAUTH.decode()}")
    assert admission.principal.method == "open"
    admission = door(allow_subscription=True).admit((key(b"sk-ant-api03-own"),))
    assert own(admission) == (b"x-api-key", "sk-ant-api03-own")


def test_nothing_of_the_clients_passes_without_allow_subscription() -> None:
    assert own(door().admit((bearer(OAUTH),))) is None


@pytest.mark.parametrize("line", [key(PLACEHOLDER), bearer(PLACEHOLDER)])
def test_the_placeholder_is_nobodys_credential(line: tuple[bytes, bytes]) -> None:
    assert own(door(allow_subscription=True).admit((line,))) is None
    with pytest.raises(ClientError):
        door(api_key=True, allow_subscription=True).admit((line,))


def test_the_placeholder_does_not_hide_a_subscription() -> None:
    admission = door(allow_subscription=True).admit((key(PLACEHOLDER), bearer(OAUTH)))
    assert own(admission) == (b"authorization", f"Bearer {OAUTH.decode()}")


def test_a_relay_key_beside_a_subscription_opens_and_only_the_subscription_passes() -> None:
    admission = door(api_key=True, allow_subscription=True).admit((key(RELAY_KEY), bearer(OAUTH)))
    assert admission.principal.method == "api_key"
    assert not admission.principal.own_credential_only
    assert own(admission) == (b"authorization", f"Bearer {OAUTH.decode()}")


def test_behind_a_lock_an_own_credential_opens_for_itself_only() -> None:
    admission = door(api_key=True, allow_subscription=True).admit((bearer(OAUTH),))
    assert admission.principal.method == "own_credential"
    assert admission.principal.own_credential_only
    assert own(admission) is not None


def test_with_open_bearers_a_subscription_is_the_clients_own_and_spends_no_pooled_key() -> None:
    admission = door(allow_bearer=True, allow_subscription=True).admit((bearer(OAUTH),))
    assert admission.principal.own_credential_only
    assert own(admission) is not None


def test_principals_of_one_credential_are_equal_and_of_others_differ() -> None:
    keeper = door(allow_bearer=True)
    one, same, other = (keeper.admit((bearer(token),)).principal for token in (b"a", b"a", b"b"))
    assert one == same
    assert one.digest != other.digest
    assert OAUTH.decode() not in repr(door(allow_subscription=True).admit((bearer(OAUTH),)))
