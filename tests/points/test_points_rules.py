"""Publishing programs, the worker's wiring, and which table is fed by what."""

from datetime import timedelta
from typing import Any

import pytest

from services.points.ledger.store import ACCOUNTS, EVALUATIONS, LOTS, WAITING_REFUNDS
from services.points.programs.publishing import DOCUMENT_BYTES_MAX
from services.points.programs.sample import SAMPLE_PROGRAM
from services.points.programs.store import IDENTITIES, PROGRAM_VERSIONS, PROGRAMS, PUBLISHED, TENANTS
from services.points.rules import READS, REQUESTS, PointsRules
from shared.events import catalogue
from shared.events.contacts import TENANT_SUBJECT
from shared.events.door import ContactIdentified, Identity
from shared.events.envelope import Event
from shared.events.points import DraftProgram, ProgramDeclared, ProgramPublished, PublishProgram
from shared.events.runtime import RequestRefused
from shared.runtime.rules import Rules
from tests.points.till import TENANT, Till, day, program, refolded


def test_the_worker_is_what_the_runtime_asks_for() -> None:
    rules: Rules = PointsRules()
    assert len({table.name for table in rules.tables}) == len(rules.tables)


def test_every_type_it_names_is_declared_and_every_request_of_points_is_accepted() -> None:
    catalogue.load_all()
    assert {name for name in REQUESTS | READS if not catalogue.known(name)} == set()
    own = {each.name for each in catalogue.every() if each.owner == "points" and each.kind == "request"}
    assert own == REQUESTS


def test_a_draft_is_checked_kept_and_earns_nothing() -> None:
    till = Till()
    (fact,) = till.ask(DraftProgram(document=SAMPLE_PROGRAM, by="li"), TENANT_SUBJECT)
    assert fact.type == "program.drafted.v1"
    assert till.tables.rows["program_versions"] == {}
    assert till.tables.rows["programs"][TENANT, "main"].versions == 0


def test_a_draft_that_contradicts_itself_is_refused_with_every_problem() -> None:
    document = program(redemption={"wallet": "status", "minor_per_point": 1, "minimum_points": 10, "step_points": 100})
    (fact,) = Till().ask(DraftProgram(document=document), TENANT_SUBJECT)
    assert isinstance(fact.data, RequestRefused)
    assert fact.data.reason == "program-invalid"
    assert {each["code"] for each in fact.data.facts["problems"]} == {"wallet-not-redeemable", "minimum-off-step"}


def test_a_draft_too_large_to_be_told_everywhere_is_refused() -> None:
    levels = [{"code": f"l{n}", "name": "龍" * 200, "threshold": n, "benefits": ["龍" * 200] * 10} for n in range(50)]
    document = program(tiers={**SAMPLE_PROGRAM["tiers"], "levels": levels})
    (fact,) = Till().ask(DraftProgram(document=document), TENANT_SUBJECT)
    assert isinstance(fact.data, RequestRefused)
    assert (fact.data.reason, str(DOCUMENT_BYTES_MAX) in fact.data.detail) == ("program-too-large", True)


def test_publishing_makes_the_next_version_and_tells_every_partition() -> None:
    till = Till(SAMPLE_PROGRAM)
    (fact,) = till.publish(program(name="Record Club II"), effective_from=day(30))
    assert isinstance(fact.data, ProgramPublished)
    assert (fact.data.version, fact.data.effective_from) == (2, day(30))
    (letter,) = [each for each in till.stream if isinstance(each.data, ProgramDeclared) and each.data.version == 2]
    assert letter.data.document == fact.data.document
    assert sorted(till.tables.rows["program_versions"]) == [(TENANT, 0, "main", 1), (TENANT, 0, "main", 2)]
    assert [row.version for row in till.tables.rows["published_programs"].values()] == [1, 2]


def test_without_a_date_a_version_rules_from_the_moment_it_is_decided() -> None:
    till = Till()
    till.now = day(5)
    (fact,) = till.publish(SAMPLE_PROGRAM)
    assert fact.data.effective_from == day(5)
    (_, *earned) = till.buy("li", 1_000, at=day(5) - timedelta(seconds=1))
    assert [each.type for each in earned] == ["tier.changed.v1"]


def test_nothing_is_published_without_a_draft_or_beside_another_program() -> None:
    till = Till(SAMPLE_PROGRAM)
    (none,) = till.ask(PublishProgram(program="vip"), TENANT_SUBJECT)
    till.ask(DraftProgram(program="vip", document=SAMPLE_PROGRAM), TENANT_SUBJECT)
    (other,) = till.ask(PublishProgram(program="vip"), TENANT_SUBJECT)
    assert (none.data.reason, other.data.reason) == ("no-draft", "another-program")


def test_an_identity_finds_its_contact_and_coming_again_changes_nothing() -> None:
    till = Till()
    known = ContactIdentified(identities=(Identity(kind="phone", hash="h1", value="sealed"),))
    till.happen(known, "li")
    before = dict(till.tables.rows["identities"])
    assert list(before) == [(TENANT, "phone", "h1", "li")]
    till.now = day(3)
    till.happen(known, "li")
    assert till.tables.rows["identities"] == before


def test_each_table_is_fed_as_it_says() -> None:
    till = Till(SAMPLE_PROGRAM)
    till.happen(ContactIdentified(identities=(Identity(kind="phone", hash="h1", value="sealed"),)), "li")
    assert {table.name for table in (TENANTS, PROGRAM_VERSIONS, IDENTITIES)} == {
        table.name for table in PointsRules.tables if table.feed == "others"
    }
    assert {PROGRAMS.feed, PUBLISHED.feed} == {"own"}


STORY = (
    "reversal.deferred.v1",
    "rules.evaluated.v1",
    "points.earned.v1",
    "points.redeemed.v1",
    "points.adjusted.v1",
    "points.reversed.v1",
    "points.expired.v1",
    "tier.changed.v1",
)


def test_the_examples_of_its_facts_are_one_story_that_folds() -> None:
    till = Till()
    for name in STORY:
        example = catalogue.find(name).data.model_validate(catalogue.find(name).example)
        event = Event(name, "/points", name, TENANT, "li", day(1), example, producer="points.0", recorded_at=day(1))
        till.stream.append(event)
    tables = refolded(till, own_first=True)
    assert {name: len(rows) for name, rows in tables.rows.items() if rows and name not in {"tenants", "subjects"}} == {
        "members": 1,
        "accounts": 1,
        "lots": 1,
        "ledger_entries": 5,
        "evaluations": 4,
        "order_lines": 1,
        "order_awards": 1,
        "refunds": 1,
        "waiting_refunds": 1,
        "tiers": 1,
        "tier_changes": 1,
    }
    assert tables.of(ACCOUNTS, "li")[0][3:] == (0, 0, 590, 100, 145, -50, 295)
    assert tables.of(LOTS, "li")[0].remaining == 0
    (told, _, _, reversed_) = (row.fact_id for row in tables.of(EVALUATIONS, "li"))
    assert [(row.fact_id, row.released_by) for row in tables.of(WAITING_REFUNDS, "li")] == [(told, reversed_)]


@pytest.mark.parametrize("method", ["absorb", "evolve"])
def test_an_event_that_is_not_its_own_business_is_an_error(method: str) -> None:
    till = Till(SAMPLE_PROGRAM)
    unknown: Any = catalogue.find("clock.declared.v1")
    event = Event(
        "x",
        "s",
        unknown.name,
        TENANT,
        "li",
        till.now,
        unknown.data.model_validate(unknown.example),
        recorded_at=till.now,
    )
    rules: Any = PointsRules()
    with pytest.raises(TypeError, match="ClockDeclared"):
        rules.absorb(None, event, 0) if method == "absorb" else rules.evolve(None, event)
