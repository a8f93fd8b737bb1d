"""The toy worker: points are put in, mature, are taken out and given on. Tiny, but it uses every mechanism.

Requests with refusals, timers, work across contacts (fact here, letter there, answer back), a tenant-wide rate looked
up by `now`, a nickname unique across partitions, postings, and a second worker that answers on the stream.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from shared.events.envelope import Event
from shared.events.runtime import RequestRefused
from shared.runtime.rules import Draft, Input, Refused
from shared.runtime.tables import Need, Rows, Table
from shared.testing.simulator.toy.events import (
    OWNER,
    Deposit,
    Deposited,
    Granted,
    Matured,
    Nickname,
    NicknameGiven,
    RateDeclared,
    RateSet,
    SetRate,
    Stumble,
    Transfer,
    TransferAnswered,
    TransferDeclined,
    TransferOffered,
    TransferSent,
    TransferSettled,
    TransferTaken,
    Withdraw,
    Withdrawn,
)
from shared.testing.simulator.toy.store import (
    ACCOUNTS,
    DEPOSITS,
    ENTRIES,
    NICKNAMES,
    RATES,
    TRANSFERS,
    Account,
    AccountRow,
    DepositRow,
    EntryRow,
    NicknameRow,
    RateRow,
    TransferRow,
)

DECLINED_OVER: Final = 400
"""A receiver declines a transfer of more points than this."""

FEE_FROM: Final = 200
FEE: Final = 1
"""A transfer of many points costs one: a second fact of the same input, behind one that has a letter."""

Posting = tuple[Account, int]


class Stumbled(Exception):
    """The decision that always raises."""


class ToyRules:
    """The toy worker's rules (`shared.runtime.rules.Rules`)."""

    worker = OWNER
    tables: Sequence[Table[Any]] = (ACCOUNTS, DEPOSITS, TRANSFERS, NICKNAMES, ENTRIES, RATES)
    requests = frozenset(
        {
            "toy.deposit.v1",
            "toy.withdraw.v1",
            "toy.transfer.v1",
            "toy.nickname.v1",
            "toy.rate.v1",
            "toy.stumble.v1",
        }
    )
    reads = frozenset(
        {"toy.transfer_offered.v1", "toy.transfer_answered.v1", "toy.rate_declared.v1", "bonus.granted.v1"}
    )
    fold_version = 1
    settles = True

    def needs(self, event: Event, partition: int) -> Iterable[Need]:
        yield Need(ACCOUNTS, (event.tenant, event.subject))
        yield Need(DEPOSITS, (event.tenant, event.subject))
        match event.data:
            case Deposit() | RateDeclared():
                yield Need(RATES, (partition, event.tenant))
            case Nickname(nickname=nickname) | NicknameGiven(nickname=nickname):
                yield Need(NICKNAMES, (event.tenant, nickname))
            case (
                Transfer()
                | TransferSent()
                | TransferOffered()  # its facts are subclasses of the letter
                | TransferAnswered()
                | TransferSettled()
            ):
                yield Need(TRANSFERS, (event.tenant, event.subject))
            case _:
                pass

    def absorb(self, rows: Rows, event: Event, partition: int) -> None:
        if isinstance(event.data, RateDeclared):
            rows.put(RATES, RateRow(partition, event.tenant, event.data.effective_from, event.data.percent))

    def decide(self, rows: Rows, item: Input) -> Sequence[Draft]:
        event = item.event
        match event.data:
            case None:
                return matured(rows, event.tenant, event.subject, item.now)
            case Deposit() as asked:
                return [Draft(deposited(rows, item, asked))]
            case Granted(amount=amount):
                gift = Deposited(deposit_id=item.cause, amount=amount, percent=0, matures_at=None, bonus=True)
                return [Draft(gift)]
            case Withdraw(amount=amount):
                _spendable(rows, event, amount)
                return [Draft(Withdrawn(amount=amount))]
            case Transfer(to=to, amount=amount):
                fee = FEE if amount >= FEE_FROM else 0
                _spendable(rows, event, amount + fee)
                sent = Draft(TransferSent(transfer_id=item.cause, to=to, amount=amount))
                return [sent, Draft(Withdrawn(amount=fee))] if fee else [sent]
            case TransferOffered() as offer:
                return answered(rows, event, offer)
            case TransferAnswered() as answer:
                return settled(rows, event, answer)
            case Nickname(nickname=nickname):
                held = rows.get(NICKNAMES, (event.tenant, nickname))
                if held is not None and held.subject != event.subject:
                    raise Refused("nickname-taken", "choose another one", nickname=nickname, holder=held.subject)
                return [Draft(NicknameGiven(nickname=nickname))]
            case SetRate(percent=percent, effective_from=start) if event.type == "toy.rate.v1":
                if start < item.now:
                    raise Refused("too-late", "a rate cannot begin in the past")
                return [Draft(RateSet(percent=percent, effective_from=start))]
            case Stumble():
                raise Stumbled(event.id)
            case _:
                return []

    def evolve(self, rows: Rows, event: Event) -> None:
        if isinstance(event.data, RequestRefused):
            return
        place = (event.tenant, event.subject)
        match event.data:
            case Deposited(matures_at=datetime() as matures_at) as deposit:
                rows.put(DEPOSITS, DepositRow(*place, deposit.deposit_id, deposit.amount, matures_at, False))
            case Matured(deposit_id=deposit_id):
                held = rows.get(DEPOSITS, (*place, deposit_id), place)
                assert held is not None
                rows.put(DEPOSITS, held._replace(matured=True))
            case TransferSent(transfer_id=transfer_id, to=to, amount=amount):
                rows.put(TRANSFERS, TransferRow(*place, transfer_id, "sent", to, amount, "open"))
            case TransferSettled(transfer_id=transfer_id, taken=taken):
                sent = rows.get(TRANSFERS, (*place, transfer_id, "sent"), place)
                assert sent is not None
                rows.put(TRANSFERS, sent._replace(state="taken" if taken else "declined"))
            case TransferTaken(transfer_id=transfer_id, sender=sender, amount=amount):
                rows.put(TRANSFERS, TransferRow(*place, transfer_id, "received", sender, amount, "taken"))
            case TransferDeclined(transfer_id=transfer_id, sender=sender, amount=amount):
                rows.put(TRANSFERS, TransferRow(*place, transfer_id, "received", sender, amount, "declined"))
            case NicknameGiven(nickname=nickname):
                rows.put(NICKNAMES, NicknameRow(event.tenant, nickname, event.subject))
            case _:
                pass
        _post(rows, event)

    def letters(self, fact: Event) -> Sequence[Draft]:
        match fact.data:
            case TransferSent(transfer_id=transfer_id, to=to, amount=amount):
                return [Draft(TransferOffered(transfer_id=transfer_id, sender=fact.subject, amount=amount), subject=to)]
            case (TransferTaken() | TransferDeclined()) as answer:
                taken = isinstance(answer, TransferTaken)
                return [Draft(TransferAnswered(transfer_id=answer.transfer_id, taken=taken), subject=answer.sender)]
            case RateSet(percent=percent, effective_from=start):
                return [Draft(RateDeclared(percent=percent, effective_from=start))]
            case _:
                return []

    def due_at(self, rows: Rows, tenant: str, subject: str) -> datetime | None:
        waiting = [row.matures_at for row in rows.all(DEPOSITS, (tenant, subject)) if not row.matured]
        return min(waiting, default=None)


def rate_at(rows: Rows, partition: int, tenant: str, now: datetime) -> int:
    """The interest in percent that holds at `now`: the one that began last, never the one told last."""
    begun = [row for row in rows.all(RATES, (partition, tenant)) if row.effective_from <= now]
    return begun[-1].percent if begun else 0


def deposited(rows: Rows, item: Input, asked: Deposit) -> Deposited:
    """What a deposit comes to at the rate of now, and when it can be spent."""
    percent = rate_at(rows, item.partition, item.event.tenant, item.now)
    return Deposited(
        deposit_id=item.cause,
        amount=asked.amount + asked.amount * percent // 100,
        percent=percent,
        matures_at=item.now + timedelta(seconds=asked.hold_seconds) if asked.hold_seconds else None,
        note=asked.note,
    )


def matured(rows: Rows, tenant: str, subject: str, now: datetime) -> list[Draft]:
    """All deposits of the contact that mature at exactly this instant."""
    return [
        Draft(Matured(deposit_id=row.deposit_id, amount=row.amount))
        for row in rows.all(DEPOSITS, (tenant, subject))
        if not row.matured and row.matures_at == now
    ]


def answered(rows: Rows, event: Event, offer: TransferOffered) -> list[Draft]:
    """The receiver's answer, once per transfer: an offer that comes again was answered before."""
    if rows.get(TRANSFERS, (event.tenant, event.subject, offer.transfer_id, "received"), (event.tenant, event.subject)):
        return []
    answer = TransferTaken if offer.amount <= DECLINED_OVER else TransferDeclined
    return [Draft(answer(transfer_id=offer.transfer_id, sender=offer.sender, amount=offer.amount))]


def settled(rows: Rows, event: Event, answer: TransferAnswered) -> list[Draft]:
    """The end of a transfer at its sender, once."""
    place = (event.tenant, event.subject)
    sent = rows.get(TRANSFERS, (*place, answer.transfer_id, "sent"), place)
    if sent is None or sent.state != "open":
        return []
    return [Draft(TransferSettled(transfer_id=answer.transfer_id, amount=sent.amount, taken=answer.taken))]


def postings(fact: object) -> list[Posting]:
    """What a fact posts on its contact's accounts; sums to 0."""
    match fact:
        case Deposited(amount=amount, matures_at=None):
            return [("available", amount), ("outside", -amount)]
        case Deposited(amount=amount):
            return [("pending", amount), ("outside", -amount)]
        case Matured(amount=amount):
            return [("available", amount), ("pending", -amount)]
        case Withdrawn(amount=amount):
            return [("available", -amount), ("outside", amount)]
        case TransferSent(amount=amount):
            return [("available", -amount), ("transit", amount)]
        case TransferTaken(amount=amount):
            return [("available", amount), ("clearing", -amount)]
        case TransferSettled(amount=amount, taken=True):
            return [("clearing", amount), ("transit", -amount)]
        case TransferSettled(amount=amount):
            return [("available", amount), ("transit", -amount)]
        case _:
            return []


def _post(rows: Rows, event: Event) -> None:
    lines = postings(event.data)
    account = rows.get(ACCOUNTS, (event.tenant, event.subject)) or AccountRow(event.tenant, event.subject)
    sums: dict[Account, int] = dict(lines)
    rows.put(
        ACCOUNTS,
        account._replace(
            available=account.available + sums.get("available", 0),
            pending=account.pending + sums.get("pending", 0),
            transit=account.transit + sums.get("transit", 0),
            facts=account.facts + 1,
        ),
    )
    for name, amount in lines:
        rows.append(ENTRIES, EntryRow(event.tenant, event.subject, event.id, name, amount))


def _spendable(rows: Rows, event: Event, amount: int) -> None:
    account = rows.get(ACCOUNTS, (event.tenant, event.subject)) or AccountRow(event.tenant, event.subject)
    if account.available < amount:
        raise Refused(
            "not-enough", f"{account.available} available, {amount} asked", available=account.available, asked=amount
        )
