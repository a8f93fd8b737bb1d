"""What must hold of the ledger whatever happens: sums, rebuilds, batches, time in steps, duplicates, pieces."""

from collections import defaultdict
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from services.points.ledger.lots import available
from services.points.ledger.store import ACCOUNTS, LEDGER_ENTRIES, LOTS, AccountRow
from services.points.programs.sample import SAMPLE_PROGRAM
from services.points.tiers.store import TIERS
from shared.events.door import Line
from tests.points.till import Tables, Till, day, program, refolded

CONTACTS = ("li", "wang")
WALLETS = ("points", "status")
ORDERS = ("a", "b", "c", "d")
EXPIRIES = ({"kind": "rolling", "days": 9, "round": "day"}, {"kind": "rolling", "days": 5}, {"kind": "never"})


def law_program(refunds: str, points: int, status: int) -> dict[str, Any]:
    """The sample program with short lives, so that lots lapse and tiers are reviewed within the test."""
    wallets = [
        {**wallet, "expiry": EXPIRIES[expiry]}
        for wallet, expiry in zip(SAMPLE_PROGRAM["wallets"], (points, status), strict=True)
    ]
    redemption = {"wallet": "points", "minor_per_point": 1, "refunds": refunds}
    tiers = {**SAMPLE_PROGRAM["tiers"], "review": {"kind": "yearly", "month": 12, "day": 20, "downgrade": "step"}}
    return program(wallets=wallets, redemption=redemption, tiers=tiers)


lines = st.lists(
    st.builds(
        Line,
        line_id=st.sampled_from(("1", "2")),
        sku=st.just("CD"),
        quantity=st.integers(1, 4),
        amount_minor=st.integers(0, 30_000),
    ),
    min_size=1,
    max_size=3,
)
pieces_of_lines = st.lists(st.tuples(st.integers(1, 3), st.integers(1, 3)), max_size=6)
contacts = st.sampled_from(CONTACTS)
orders = st.sampled_from(ORDERS)


class Ledger(RuleBasedStateMachine):
    """Everything a shop can do to two members."""

    till: Till

    @initialize(
        refunds=st.sampled_from(("pending-only", "within-balance", "allow-negative")),
        points=st.integers(0, 2),
        status=st.integers(1, 2),
    )
    def open(self, refunds: str, points: int, status: int) -> None:
        self.refunds, self.program = refunds, law_program(refunds, points, status)
        self.till = Till(self.program, zone="Asia/Shanghai")
        self.till.now = day(1)
        self.done: list[tuple[Any, ...]] = []

    def do(self, what: str, *arguments: Any) -> None:
        self.done.append((self.till.now, what, arguments))
        getattr(self.till, what)(*arguments)

    @rule(contact=contacts, bought=lines, order=orders, days_ago=st.sampled_from((0, 0, 0, 1, 12)))
    def buy(self, contact: str, bought: list[Line], order: str, days_ago: int) -> None:
        """Also of orders that are known, and late."""
        self.do("buy", contact, bought, order, self.till.now - timedelta(days=days_ago))

    @rule(contact=contacts, order=orders, refund=st.sampled_from(("r1", "r2", "r3")), pieces=st.integers(1, 5))
    def refund(self, contact: str, order: str, refund: str, pieces: int) -> None:
        """Also of orders and refunds that are unknown or known."""
        self.do("refund", contact, order, refund, None, {"1": pieces, "2": 1})

    @rule(contact=contacts, points=st.integers(-5, 200), wallet=st.sampled_from(("", "points", "status", "none")))
    def redeem(self, contact: str, points: int, wallet: str) -> None:
        self.do("redeem", contact, points, wallet)

    @rule(contact=contacts, points=st.integers(-100, 100), wallet=st.sampled_from(WALLETS))
    def adjust(self, contact: str, points: int, wallet: str) -> None:
        self.do("adjust", contact, points, wallet)

    @rule(contact=contacts)
    def visit(self, contact: str) -> None:
        self.do("visit", contact)

    @rule(hours=st.integers(1, 100), run_timers=st.booleans())
    def pass_time(self, hours: int, run_timers: bool) -> None:
        """A read of a later instant shows what is there when that instant has come."""
        later = self.till.now + timedelta(hours=hours)
        shown = {
            (contact, wallet): available(self.till.tables.of(LOTS, contact), wallet, later)
            for contact in CONTACTS
            for wallet in WALLETS
        }
        self.till.pass_time(later, run_timers=run_timers)
        for (contact, wallet), points in shown.items():
            assert available(self.till.tables.of(LOTS, contact), wallet, later) == points
            if run_timers:
                assert self.till.available(contact, wallet) == points

    @invariant()
    def every_balance_is_the_sum_of_its_postings_and_of_its_lots(self) -> None:
        for contact in CONTACTS:
            assert_balanced(self.till.tables, contact)

    @invariant()
    def nothing_is_owed_unless_the_program_allows_it(self) -> None:
        rows = self.till.tables.rows["accounts"].values()
        assert self.refunds == "allow-negative" or not any(row.owed for row in rows)

    def teardown(self) -> None:
        if not hasattr(self, "till"):
            return
        assert_same(self.till.tables, refolded(self.till, own_first=True))
        assert_same(self.till.tables, refolded(self.till, own_first=False, batch=50))
        end = self.till.now + timedelta(days=30)
        self.till.pass_time(end)
        patient = Till(self.program, zone="Asia/Shanghai")
        for now, what, arguments in self.done:
            patient.now = now
            getattr(patient, what)(*arguments)
        patient.pass_time(end)
        assert_same(self.till.tables, patient.tables)


def assert_balanced(tables: Tables, contact: str) -> None:
    """Law 1 for one member, at every entry and at the end."""
    posted: dict[tuple[str, str], int] = defaultdict(int)
    for entry in tables.of(LEDGER_ENTRIES, contact):
        assert entry.points > 0
        posted[entry.wallet, entry.source] -= entry.points
        posted[entry.wallet, entry.destination] += entry.points
        assert posted[entry.wallet, "member:available"] >= 0 >= posted[entry.wallet, "member:owed"]
    for row in tables.of(ACCOUNTS, contact):
        assert row.available == sum(lot.remaining for lot in tables.of(LOTS, contact) if lot.wallet == row.wallet)
        assert as_posted(row) == {account: posted[row.wallet, account] for account in as_posted(row)}
        assert sum(points for (wallet, _), points in posted.items() if wallet == row.wallet) == 0


def as_posted(row: AccountRow) -> dict[str, int]:
    return {
        "member:available": row.available,
        "member:owed": -row.owed,
        "program:issued": -row.issued,
        "program:redeemed": row.redeemed,
        "program:expired": row.expired,
        "program:adjusted": -row.adjusted,
        "program:reversed": row.reversed,
    }


def assert_same(live: Tables, other: Tables) -> None:
    for name, rows in live.rows.items():
        assert rows == other.rows[name], name


TestLedger = Ledger.TestCase
TestLedger.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)


@settings(max_examples=40, deadline=None)
@given(
    bought=lines,
    pieces=st.lists(st.tuples(st.integers(1, 3), st.integers(1, 3)), max_size=6),
    spent=st.integers(1, 300),
)
def test_a_refund_in_pieces_is_a_refund_at_once(
    bought: list[Line], pieces: Sequence[tuple[int, int]], spent: int
) -> None:
    tills = [Till(law_program("allow-negative", 2, 2)) for _ in range(2)]
    for till in tills:
        till.buy("li", bought, "o1")
        till.redeem("li", spent)
    for number, (first, second) in enumerate(pieces):
        tills[0].refund("li", "o1", f"r{number}", None, {"1": first, "2": second})
    if pieces:
        tills[1].refund("li", "o1", "r", None, {str(n + 1): sum(piece[n] for piece in pieces) for n in range(2)})
    for table in (ACCOUNTS, LOTS, TIERS):
        assert tills[0].tables.of(table, "li") == tills[1].tables.of(table, "li")


@settings(max_examples=15, deadline=None)
@given(amounts=st.lists(st.integers(0, 20_000), min_size=1, max_size=12), batch=st.sampled_from((2, 7, 1_000)))
def test_batches_of_any_size_leave_the_same_rows(amounts: list[int], batch: int) -> None:
    single, many = Till(law_program("within-balance", 0, 1)), Till(law_program("within-balance", 0, 1))
    works = []
    for number, amount in enumerate(amounts):
        single.pass_time(timedelta(days=2), run_timers=False)
        many.now = single.now
        works.append(many.purchase_work(CONTACTS[number % 2], amount, f"o{number}"))
        single.buy(CONTACTS[number % 2], amount, f"o{number}")
    for start in range(0, len(works), batch):
        many.feed(works[start : start + batch])
    assert_same(single.tables, many.tables)
