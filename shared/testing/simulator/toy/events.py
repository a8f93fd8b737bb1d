"""Events of the toy workers. Importing this module declares them; nothing but tests and the simulator imports it."""

from functools import partial
from typing import Annotated, Final

from pydantic import Field

from shared.events import catalogue
from shared.events.catalogue import Data, Points, Time

OWNER: Final = "toy"
BONUS: Final = "bonus"

Amount = Annotated[Points, Field(ge=1)]
Share = Annotated[int, Field(strict=True, ge=0, le=100)]
Seconds = Annotated[int, Field(strict=True, ge=0, le=10**9)]

declare = partial(catalogue.declare, listed=False)
"""As the catalogue's, but the generated pages do not show these types."""

_AT = "2026-01-02T00:00:00Z"
_ID = "regulars.inbox.toy.1/3/17"
_RATE = {"percent": 5, "effective_from": _AT}
_OFFER = {"transfer_id": _ID, "sender": "c1", "amount": 40}


@declare("toy.deposit.v1", OWNER, "request", {"amount": 100, "hold_seconds": 86400, "note": "acme"})
class Deposit(Data):
    """Put points in; they can be spent `hold_seconds` later, with interest at the rate of now."""

    amount: Amount
    hold_seconds: Seconds = 0
    note: str = ""


@declare(
    "toy.deposited.v1",
    OWNER,
    "fact",
    {"deposit_id": _ID, "amount": 105, "percent": 5, "matures_at": _AT, "note": "acme", "bonus": False},
)
class Deposited(Data):
    """Points were put in. `amount` includes the interest; without `matures_at` it can be spent at once."""

    deposit_id: str
    amount: Amount
    percent: Share
    matures_at: Time | None
    note: str = ""
    bonus: bool = False
    """Given by the bonus worker, which gives nothing for it again."""


@declare("toy.matured.v1", OWNER, "fact", {"deposit_id": _ID, "amount": 105})
class Matured(Data):
    """A deposit can be spent from now on."""

    deposit_id: str
    amount: Amount


@declare("toy.withdraw.v1", OWNER, "request", {"amount": 30})
class Withdraw(Data):
    """Take points out."""

    amount: Amount


@declare("toy.withdrawn.v1", OWNER, "fact", {"amount": 30})
class Withdrawn(Data):
    """Points were taken out."""

    amount: Amount


@declare("toy.transfer.v1", OWNER, "request", {"to": "c2", "amount": 40})
class Transfer(Data):
    """Give points to another contact."""

    to: Annotated[str, Field(min_length=1)]
    amount: Amount


@declare("toy.transfer_sent.v1", OWNER, "fact", {"transfer_id": _ID, "to": "c2", "amount": 40})
class TransferSent(Data):
    """Points left the sender and are in transit."""

    transfer_id: str
    to: str
    amount: Amount


@declare("toy.transfer_offered.v1", OWNER, "letter", _OFFER)
class TransferOffered(Data):
    """To the receiver: points are on their way to you."""

    transfer_id: str
    sender: str
    amount: Amount


@declare("toy.transfer_taken.v1", OWNER, "fact", _OFFER)
class TransferTaken(TransferOffered):
    """The receiver has the points."""


@declare("toy.transfer_declined.v1", OWNER, "fact", _OFFER)
class TransferDeclined(TransferOffered):
    """The receiver may not have so many at once."""


@declare("toy.transfer_answered.v1", OWNER, "letter", {"transfer_id": _ID, "taken": True})
class TransferAnswered(Data):
    """To the sender: what became of the transfer."""

    transfer_id: str
    taken: bool


@declare("toy.transfer_settled.v1", OWNER, "fact", {"transfer_id": _ID, "amount": 40, "taken": True})
class TransferSettled(Data):
    """A transfer is over: the points have arrived, or they came back."""

    transfer_id: str
    amount: Amount
    taken: bool


@declare("toy.nickname.v1", OWNER, "request", {"nickname": "acme-fox"})
class Nickname(Data):
    """Take a nickname that nobody else of the tenant has."""

    nickname: Annotated[str, Field(min_length=1)]


@declare("toy.nickname_given.v1", OWNER, "fact", {"nickname": "acme-fox"})
class NicknameGiven(Data):
    """A contact has this nickname, for ever."""

    nickname: str


@declare("toy.rate.v1", OWNER, "request", _RATE)
class SetRate(Data):
    """Set the tenant's interest from an instant on that is not past."""

    percent: Share
    effective_from: Time


@declare("toy.rate_set.v1", OWNER, "fact", _RATE)
class RateSet(SetRate):
    """The tenant's interest from an instant on was set."""


@declare("toy.rate_declared.v1", OWNER, "letter", _RATE, everywhere=True)
class RateDeclared(SetRate):
    """To every partition: the tenant's interest from an instant on."""


@declare("toy.stumble.v1", OWNER, "request", {"note": "acme"})
class Stumble(Data):
    """A request on which the rule raises, so that it is parked."""

    note: str = ""


@declare("bonus.gift.v1", BONUS, "request", {"amount": 7})
class Gift(Data):
    """Give a contact a bonus by hand."""

    amount: Amount


@declare("bonus.granted.v1", BONUS, "fact", {"amount": 7, "reason": "every third deposit"})
class Granted(Data):
    """The bonus worker gives points; the toy worker puts them in."""

    amount: Amount
    reason: str
