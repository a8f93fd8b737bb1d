"""Whom a request is about: a contact by its id, or by an identity that a person at a till can read out."""

from typing import Annotated, Final, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from services.points.ledger.read_store import find_contacts
from services.points.members.read_store import Seen, seen
from shared.events.door import EMAIL, PHONE, REFERENCE, STRONGEST_FIRST, normalised_email, normalised_phone
from shared.http.problems import Invalid, NotFound, Refusal
from shared.log.port import PARTITIONS, partition_of
from shared.runtime.migrations import Connection
from shared.sealing import MasterKey, identity_hash

UNKNOWN: Final = (
    "Points knows no such contact: check it, or send the Regulars-Position of the event that named it first as "
    "Regulars-After."
)

ContactId = Annotated[str, Field(min_length=1, max_length=200)]


class Identity(BaseModel):
    """One way to know a contact. It is compared in its normal form, and kept nowhere."""

    model_config = ConfigDict(extra="forbid")

    kind: str = Field(max_length=40, description=f"One of {', '.join(STRONGEST_FIRST)}.", examples=["phone"])
    value: str = Field(
        min_length=1,
        max_length=1_000,
        description="An e-mail address, a phone number with its country code, or `<source> <reference>`: the source "
        "of the sender's events and the customer's number there, with one space between.",
        examples=["+8613800138000"],
    )


class Whom(BaseModel):
    """Either `contact` or `identity`."""

    model_config = ConfigDict(extra="forbid")

    contact: ContactId | None = None
    identity: Identity | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.contact is None) == (self.identity is None):
            raise ValueError("send either contact or identity")
        return self


def normal_form(identity: Identity) -> str:
    """The value whose keyed hash the door keeps. Raises Invalid."""
    try:
        match identity.kind:
            case kind if kind == EMAIL:
                return normalised_email(identity.value)
            case kind if kind == PHONE:
                return normalised_phone(identity.value)
            case kind if kind == REFERENCE:
                source, space, reference = identity.value.partition(" ")
                if not (source and space and reference):
                    raise ValueError("send the source of the events, a space, and the customer's number there")
                return identity.value
            case _:
                advice, field = f"send a kind of {', '.join(STRONGEST_FIRST)}", "body.identity.kind"
    except ValueError as error:
        advice, field = str(error), "body.identity.value"
    raise Invalid(f"{advice[:1].upper()}{advice[1:]}.", [{"field": field, "message": advice}])


async def find(connection: Connection, tenant: str, identity: Identity, master: MasterKey) -> str:
    """The contact known by this identity. Raises Invalid, NotFound, Refusal when it is not one only."""
    keyed = identity_hash(master.identity_secret, tenant, identity.kind, normal_form(identity))
    found = await find_contacts(connection, tenant, identity.kind, keyed)
    if not found:
        raise NotFound(UNKNOWN)
    if len(found) > 1:
        raise Refusal("ambiguous-identity", "Several contacts have this identity: name the contact by its id.")
    return found[0]


async def known(connection: Connection, tenant: str, contact: str, partitions: int = PARTITIONS) -> Seen:
    """What there is of a contact. Raises NotFound when points never heard of it."""
    found = await seen(connection, tenant, contact, partition_of(tenant, contact, partitions))
    if not found.known:
        raise NotFound(UNKNOWN)
    return found


async def contact_of(connection: Connection, tenant: str, whom: Whom, master: MasterKey) -> str:
    """The contact that a request names. Raises what `find` and `known` do."""
    if whom.identity is not None:
        return await find(connection, tenant, whom.identity, master)
    assert whom.contact is not None
    await known(connection, tenant, whom.contact)
    return whom.contact
