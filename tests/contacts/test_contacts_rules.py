"""The contacts worker's rules about tenants, API keys and test clocks, one sentence each."""

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from services.contacts.rules import ContactsRules
from services.contacts.tenants.domain import CLOCK_BEFORE, CREDENTIALS_MAX, CredentialRow
from services.contacts.tenants.store import CREDENTIALS, TENANTS
from shared.events import catalogue
from shared.events.catalogue import Data
from shared.events.contacts import (
    TENANT_SUBJECT,
    AdvanceClock,
    CreateTenant,
    CredentialDeclared,
    IssueCredential,
    RevokeCredential,
)
from shared.events.envelope import Event
from shared.runtime.rules import Refused
from shared.runtime.turn import targets_of
from tests.contacts.door_driver import NOW, TENANT, Kept, types

START = datetime(1997, 1, 1, tzinfo=UTC)


def contacts() -> Kept:
    return Kept(ContactsRules({"UTC", "Asia/Shanghai"}, {"USD", "CNY"}))


def ask(kept: Kept, asked: Data, tenant: str = TENANT) -> Event:
    """The one fact that follows. Raises Refused."""
    name = catalogue.type_of(asked).name
    (fact,) = kept.ask(Event("i", "api", name, tenant, TENANT_SUBJECT, NOW, asked))
    return fact


def create(kept: Kept, tenant: str = TENANT, **settings: Any) -> Event:
    return ask(kept, CreateTenant(**{"name": "Acme", "zone": "Asia/Shanghai", "currency": "CNY", **settings}), tenant)


def issue(kept: Kept, credential_id: str = "c_01", secret: str = "0") -> Event:
    scopes = ("events:write", "points:read")
    asked = IssueCredential(credential_id=credential_id, secret_hash=secret * 64, scopes=scopes, name="till")
    return ask(kept, asked)


def refused(kept: Kept, asked: Data, tenant: str = TENANT) -> str:
    before = {name: dict(rows) for name, rows in kept.tables.items()}
    with pytest.raises(Refused) as caught:
        ask(kept, asked, tenant)
    assert kept.tables == before
    assert caught.value.detail
    return caught.value.reason


def test_a_tenant_is_created_once_and_declared_everywhere() -> None:
    kept = contacts()
    created = create(kept)
    assert (created.type, created.subject) == ("tenant.created.v1", TENANT_SUBJECT)
    (letter,) = kept.rules.letters(created)
    assert catalogue.type_of(letter.data).name == "tenant.declared.v1"
    assert letter.data.model_dump() == created.data.model_dump()
    assert refused(kept, CreateTenant(name="Again")) == "tenant-exists"
    assert types([create(kept, "beta")]) == ["tenant.created.v1"]


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"zone": "Mars/Olympus"}, "zone-unknown"),
        ({"currency": "ABC"}, "currency-unknown"),
        ({"clock_at": START.replace(year=1969)}, "clock-out-of-range"),
        ({"clock_at": CLOCK_BEFORE}, "clock-out-of-range"),
    ],
)
def test_a_tenant_with_settings_that_cannot_be_is_refused(settings: dict[str, Any], reason: str) -> None:
    assert refused(contacts(), CreateTenant(**{"name": "Acme", **settings})) == reason


def test_an_api_key_is_issued_and_revoked_and_each_is_declared_everywhere() -> None:
    kept = contacts()
    create(kept)
    issued = issue(kept)
    revoked = ask(kept, RevokeCredential(credential_id="c_01"))
    assert types([issued, revoked]) == ["credential.issued.v1", "credential.revoked.v1"]
    (first,), (second,) = kept.rules.letters(issued), kept.rules.letters(revoked)
    key = issued.data.model_dump()
    assert first.data == CredentialDeclared(**key, revoked=False)
    assert second.data == CredentialDeclared(**key, revoked=True)
    assert kept.all(CREDENTIALS) == [CredentialRow(TENANT, "c_01", "0" * 64, "events:write points:read", "till", True)]


def test_letters_go_to_every_partition() -> None:
    kept = contacts()
    for fact in (create(kept, clock_at=START), issue(kept), ask(kept, AdvanceClock(to=START + timedelta(hours=1)))):
        (letter,) = kept.rules.letters(fact)
        event = Event("i", "/contacts", "x", TENANT, TENANT_SUBJECT, NOW, letter.data)
        assert list(targets_of(event, 12)) == list(range(12))


def test_what_is_wrong_with_an_api_key_is_refused() -> None:
    kept = contacts()
    assert (
        refused(kept, IssueCredential(credential_id="c", secret_hash="0" * 64, scopes=(), name="")) == "tenant-unknown"
    )
    assert refused(kept, RevokeCredential(credential_id="c")) == "tenant-unknown"
    create(kept)
    issue(kept)
    again = IssueCredential(credential_id="c_01", secret_hash="1" * 64, scopes=(), name="")
    assert refused(kept, again) == "credential-exists"
    assert refused(kept, again.model_copy(update={"credential_id": "c_02", "secret_hash": "0" * 64})) == "secret-in-use"
    assert refused(kept, RevokeCredential(credential_id="c_09")) == "credential-unknown"
    ask(kept, RevokeCredential(credential_id="c_01"))
    assert refused(kept, RevokeCredential(credential_id="c_01")) == "credential-already-revoked"
    assert refused(kept, again) == "credential-exists", "a revoked key's id is not used again"


def test_a_tenant_has_a_bounded_number_of_api_keys() -> None:
    kept = contacts()
    create(kept)
    for number in range(CREDENTIALS_MAX):
        row = CredentialRow(TENANT, f"c{number}", f"{number:064x}", "", "", True)
        kept.tables[CREDENTIALS.name][(TENANT, row.credential_id)] = row
    asked = IssueCredential(credential_id="more", secret_hash="f" * 64, scopes=(), name="")
    assert refused(kept, asked) == "too-many-credentials"


@pytest.mark.parametrize(
    "wrong", [{"secret_hash": "secret"}, {"scopes": ("all of it",)}, {"credential_id": ""}, {"scopes": ("a:b",) * 51}]
)
def test_a_malformed_api_key_is_no_request(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        IssueCredential(**{"credential_id": "c", "secret_hash": "0" * 64, "scopes": (), "name": "", **wrong})


def test_a_test_clock_moves_forward_by_at_most_a_day() -> None:
    kept = contacts()
    create(kept, clock_at=START)
    advanced = ask(kept, AdvanceClock(to=START + timedelta(days=1)))
    assert types([advanced]) == ["clock.advanced.v1"]
    (letter,) = kept.rules.letters(advanced)
    assert letter.data.to == START + timedelta(days=1)
    assert refused(kept, AdvanceClock(to=START + timedelta(days=1))) == "clock-not-forward"
    assert refused(kept, AdvanceClock(to=START)) == "clock-not-forward"
    assert refused(kept, AdvanceClock(to=START + timedelta(days=2, microseconds=1))) == "clock-step-too-long"
    elsewhere = (START + timedelta(days=2)).astimezone(timezone(timedelta(hours=8)))
    assert ask(kept, AdvanceClock(to=elsewhere)).data.to == START + timedelta(days=2)


def test_a_tenant_on_real_time_has_no_clock_to_move() -> None:
    kept = contacts()
    assert refused(kept, AdvanceClock(to=START)) == "tenant-unknown"
    create(kept)
    assert refused(kept, AdvanceClock(to=NOW)) == "no-test-clock"


def test_a_test_clock_ends() -> None:
    kept = contacts()
    create(kept, clock_at=CLOCK_BEFORE - timedelta(hours=1))
    assert refused(kept, AdvanceClock(to=CLOCK_BEFORE)) == "clock-out-of-range"


@settings(max_examples=50, deadline=None)
@given(st.lists(st.timedeltas(timedelta(days=-3), timedelta(days=3)), max_size=20))
def test_a_clock_only_moves_forward_and_facts_fold_to_the_same_rows(steps: list[timedelta]) -> None:
    live = contacts()
    create(live, clock_at=START)
    at = START
    for step in steps:
        try:
            moved = ask(live, AdvanceClock(to=at + step)).data.to
        except Refused:
            moved = at
        assert timedelta(0) <= moved - at <= timedelta(days=1)
        at = moved
        assert live.all(TENANTS)[0].clock == at
    rebuilt = contacts()
    for fact in live.facts:
        rebuilt.fold(fact)
    assert rebuilt.tables == live.tables
