"""What only a real Postgres can prove: SQL that fits the schema, rows that come back, reads that say what is so."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import asyncpg
import pytest

import services.points
from services.points.ledger import read_store as ledger_reads
from services.points.ledger import store as ledger_store
from services.points.ledger.lots import available
from services.points.ledger.store import LOTS
from services.points.programs import read_store as program_reads
from services.points.programs import store as program_store
from services.points.programs.sample import SAMPLE_PROGRAM
from services.points.rules import PointsRules
from services.points.tiers import read_store as tier_reads
from services.points.tiers import store as tier_store
from shared.events.door import ContactIdentified, Identity
from shared.runtime.migrations import Connection, api_role_of, migrate_worker, quoted
from shared.runtime.tables import Table
from tests.load_plans import scans_beside_the_key
from tests.points.till import TENANT, Till, day, program

SQL = Path(services.points.__file__).parent / "sql"
STORES = (ledger_store, ledger_reads, program_store, program_reads, tier_store, tier_reads)
BY = {"identities": ("tenant", "contact")}
"""A person has few."""
NEW_YEAR_27 = datetime(2027, 1, 1, tzinfo=UTC)
SET_TENANT = "select set_config('regulars.tenant', $1, true)"


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[Connection]:
    found = await asyncpg.connect(database_url)
    try:
        await migrate_worker(found, "points", (SQL,))
        await found.execute("set search_path to points")
        yield found
    finally:
        await found.close()


def busy_till() -> Till:
    """A shop in which everything happened once."""
    till = Till(program(redemption={**SAMPLE_PROGRAM["redemption"], "refunds": "allow-negative"}))
    till.happen(ContactIdentified(identities=(Identity(kind="phone", hash="h1", value="sealed"),)), "li")
    till.now = day(1)
    till.buy("li", 25_050, "o1")
    till.adjust("li", 40, reason="late parcel")
    till.buy("wang", 1_000, "o2")
    till.pass_time(day(20))
    till.redeem("li", 300)
    till.refund("li", "o1")
    till.refund("wang", "o5")
    till.buy("wang", 100, "o5")
    till.refund("wang", "o6")
    till.pass_time(day(45))
    till.buy("li", 30_000, "o3", at=day(44))
    till.buy("wang", 9_900, "o4")
    till.pass_time(datetime(2026, 7, 2, tzinfo=UTC))
    return till


async def save(connection: Connection, till: Till) -> None:
    for table in PointsRules.tables:
        rows = sorted(till.tables.rows[table.name].values(), key=table.key_of)
        if table.append_only:
            await connection.copy_records_to_table(table.name, records=rows, columns=table.columns)
        elif rows:
            await connection.execute(table.save, *(list(column) for column in zip(*rows, strict=True)))


def constants(module: ModuleType) -> dict[str, str]:
    return {
        f"{module.__name__}.{name}": value
        for name, value in vars(module).items()
        if name.isupper() and isinstance(value, str) and value
    }


async def test_every_sql_constant_fits_the_schema(connection: Connection) -> None:
    every = {name: sql for module in STORES for name, sql in constants(module).items()}
    assert len(every) > 30
    for sql in every.values():
        await connection.prepare(sql)


@pytest.mark.parametrize("table", [each for each in PointsRules.tables if each.load], ids=lambda table: str(table.name))
async def test_rows_are_found_by_key_whenever_the_plan_was_made(connection: Connection, table: Table[Any]) -> None:
    assert await scans_beside_the_key(connection, table, BY.get(table.name)) == []


async def test_rows_come_back_as_they_went_in_but_for_those_no_rule_reads_again(connection: Connection) -> None:
    till = busy_till()
    for _ in range(2):
        await connection.execute("truncate " + ", ".join(t.name for t in PointsRules.tables if t.append_only))
        await save(connection, till)
    for table in PointsRules.tables:
        rows = till.tables.rows[table.name]
        assert rows, f"the busy shop puts nothing in {table.name}"
        if table.append_only:
            continue
        groups = sorted({table.group_of(row) for row in rows.values()})
        found = await connection.fetch(table.load, *(list(column) for column in zip(*groups, strict=True)))
        back = {table.key_of(row): row for row in (table.row(*record) for record in found)}
        assert back == {key: row for key, row in rows.items() if table.alive is None or table.alive(row)}, table.name


async def test_a_balance_is_what_a_redemption_at_that_instant_could_spend(connection: Connection) -> None:
    till = busy_till()
    await save(connection, till)
    for later in (till.now, NEW_YEAR_27 - timedelta(seconds=1), NEW_YEAR_27, NEW_YEAR_27 + timedelta(days=40)):
        shown = {each.wallet: each.available for each in await ledger_reads.balances(connection, TENANT, "li", later)}
        spendable = {wallet: available(till.tables.of(LOTS, "li"), wallet, later) for wallet in shown}
        assert shown == spendable
        open_lots = await ledger_reads.open_lots(connection, TENANT, "li", later, 100)
        assert sum(lot.remaining for lot in open_lots) == sum(spendable.values())
    assert shown == {"points": 0, "status": 300}


async def test_a_balance_as_of_any_instant_is_the_one_that_was_shown_then(connection: Connection) -> None:
    till = Till(SAMPLE_PROGRAM)
    shown = []
    for number in range(40):
        till.pass_time(day(15 * number), run_timers=False)
        if number % 4 != 3:
            till.buy("li", 8_000 + 100 * number, f"o{number}")
        elif number % 8 == 7:
            till.redeem("li", 100)
        else:
            till.refund("li", f"o{number - 1}")
        shown.append((till.now, available(till.tables.of(LOTS, "li"), "points", till.now)))
    await save(connection, till)
    for instant, points in shown:
        as_of = {
            each.wallet: each.available for each in await ledger_reads.balances_as_of(connection, TENANT, "li", instant)
        }
        assert as_of["points"] == points, instant
    assert len({points for _, points in shown}) > 20


async def test_what_was_known_leaves_out_what_was_written_down_later(connection: Connection) -> None:
    till = Till(SAMPLE_PROGRAM)
    till.now = day(10)
    till.buy("li", 1_000, "o1", at=day(2))
    await save(connection, till)
    now_known = await ledger_reads.balances_as_of(connection, TENANT, "li", day(3))
    assert [each.available for each in now_known] == [60, 10]
    assert await ledger_reads.balances_as_of(connection, TENANT, "li", day(3), day(9)) == []
    assert await tier_reads.tier_as_of(connection, TENANT, "li", day(9)) is None


async def test_the_ledger_adds_up_and_its_totals_are_the_members_sums(connection: Connection) -> None:
    till = busy_till()
    await save(connection, till)
    proof = await ledger_reads.ledger_proof(connection, TENANT)
    assert [each.wallet for each in proof] == ["points", "status"]
    assert all(each.holds for each in proof)
    assert sum(each.entries for each in proof) == len(till.tables.rows["ledger_entries"])
    (points, _) = await ledger_reads.program_totals(connection, TENANT, till.now)
    assert points.outstanding - points.owed == (
        points.issued - points.redeemed - points.lapsed + points.adjusted - points.reversed
    )
    (later, _) = await ledger_reads.program_totals(connection, TENANT, NEW_YEAR_27)
    till.pass_time(NEW_YEAR_27)
    assert later.outstanding == sum(till.available(contact) for contact in ("li", "wang"))


async def test_a_proof_that_does_not_hold_says_so(connection: Connection) -> None:
    await save(connection, busy_till())
    await connection.execute("update lots set remaining = remaining + 1 where wallet = 'points'")
    assert [each.holds for each in await ledger_reads.ledger_proof(connection, TENANT)] == [False, True]


async def test_the_ledger_is_paged_from_its_end(connection: Connection) -> None:
    till = busy_till()
    await save(connection, till)
    numbers, before = [], ledger_reads.FIRST_PAGE
    while page := await ledger_reads.ledger_page(connection, TENANT, "li", 3, before=before, wallet="points"):
        numbers += [entry.number for entry in page]
        before = page[-1].number
    entries = till.tables.of(ledger_store.LEDGER_ENTRIES, "li")
    assert numbers == [entry.number for entry in reversed(entries) if entry.wallet == "points"]


async def test_a_ledger_line_is_explained_by_rule_event_lot_and_what_became_of_it(connection: Connection) -> None:
    till = busy_till()
    await save(connection, till)
    told = await ledger_reads.explain_entry(connection, TENANT, "li", 1, 100)
    assert told is not None
    assert told.lot is not None
    assert told.evaluation is not None
    assert (told.entry.rule, told.entry.version, told.entry.order_id, told.entry.points) == ("dollar", 1, "o1", 250)
    assert [each.destination for each in told.lot_entries] == ["member:available", "program:redeemed"]
    assert '"rule":"dollar"' in told.evaluation.results
    assert await ledger_reads.explain_entry(connection, TENANT, "li", 999, 100) is None


async def test_a_refund_that_came_before_its_order_tells_that_it_waited_and_what_it_did(connection: Connection) -> None:
    till = busy_till()
    await save(connection, till)
    (waited,) = [row for row in till.tables.of(ledger_store.WAITING_REFUNDS, "wang") if row.released_by]
    found = await ledger_reads.evaluations_of(connection, TENANT, waited.event_id)
    assert [(row.reason, row.fact_id) for row in found] == [
        ("order-awaited", waited.fact_id),
        ("reversed", waited.released_by),
    ]
    (number, *_) = [
        row.number for row in till.tables.of(ledger_store.LEDGER_ENTRIES, "wang") if row.fact_id == waited.released_by
    ]
    told = await ledger_reads.explain_entry(connection, TENANT, "wang", number, 100)
    assert told is not None
    assert told.evaluation == found[1]
    assert (told.entry.order_id, told.entry.reference) == ("o5", "r1")


async def test_it_is_told_why_a_rule_did_not_fire(connection: Connection) -> None:
    till = busy_till()
    await save(connection, till)
    bought = till.tables.of(ledger_store.EVALUATIONS, "li")[0]
    (found,) = await ledger_reads.evaluations_of(connection, TENANT, bought.event_id)
    assert found == bought
    assert '{"fired":false,"inputs":{"event.day":2},"reason":"condition-false","rule":"member_day"}' in found.results


async def test_tiers_are_read_with_progress_history_and_counts(connection: Connection) -> None:
    till = busy_till()
    await save(connection, till)
    standing = await tier_reads.member_standing(connection, TENANT, "li", till.now)
    assert standing is not None
    assert (standing.level, standing.qualified, standing.next_level, standing.missing) == ("gold", 0, "platinum", 1_000)
    assert await tier_reads.member_standing(connection, TENANT, "nobody", till.now) is None
    steps = await tier_reads.tier_history(connection, TENANT, "li", 10)
    assert [step.change for step in steps] == ["kept", "upgraded", "entered"]
    before = await tier_reads.tier_as_of(connection, TENANT, "li", day(30))
    assert before is not None
    assert before.to_level == "silver"
    counts = await tier_reads.members_per_level(connection, TENANT, datetime(2027, 7, 1, tzinfo=UTC))
    assert [(each.level, each.members, each.overdue) for each in counts] == [("gold", 1, 1), ("silver", 1, 1)]


async def test_programs_settings_and_contacts_are_found(connection: Connection) -> None:
    till = busy_till()
    await save(connection, till)
    assert [row.version for row in await program_reads.published_versions(connection, TENANT)] == [1]
    assert [row.program for row in await program_reads.drafts(connection, TENANT)] == ["main"]
    assert await program_reads.settings_of(connection, TENANT) == ("UTC", "USD")
    assert await program_reads.settings_of(connection, "other") is None
    assert await program_reads.declared_partitions(connection, TENANT, "main", 1) == [0]
    assert await ledger_reads.find_contacts(connection, TENANT, "phone", "h1") == ["li"]
    assert await ledger_reads.find_contacts(connection, "other", "phone", "h1") == []


async def test_the_api_role_sees_one_tenant_and_none_when_none_is_set(connection: Connection) -> None:
    await save(connection, busy_till())
    await connection.execute("set role " + quoted(api_role_of("points")))
    for tenant, seen in (("", False), ("other", False), (TENANT, True)):
        async with connection.transaction():
            await connection.execute(SET_TENANT, tenant)
            for table in PointsRules.tables:
                found = await connection.fetchval("select count(*) from " + quoted(table.name))
                assert bool(found) == seen, (tenant, table.name)
    await connection.execute("reset role")
