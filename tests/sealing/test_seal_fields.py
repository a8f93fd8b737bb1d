"""What is sealed in an event's data, and how identities are hashed."""

import pytest
from pydantic import Field

from shared.events.catalogue import Data, Sealed
from shared.sealing import MasterKey, MasterKeyUnsafe, identity_hash, seal_fields, sealed_fields


class Address(Data):
    """Where somebody lives: the region is plain, so that figures by region outlive the contact."""

    street: Sealed
    region: str


class Person(Data):
    """Somebody, with every form that sealed text may take."""

    name: Sealed
    nickname: Sealed | None = None
    phones: tuple[Sealed, ...] = Field((), max_length=3)
    home: Address | None = None
    others: tuple[Address, ...] = ()
    notes: dict[str, Sealed] = Field(default_factory=dict)
    friend: "Person | None" = None
    reference: str = ""


class Till(Data):
    """Nothing personal."""

    number: int
    shop: tuple[str, ...] = ()


def marked(text: str) -> str:
    return f"<{text}>"


def test_sealed_texts_are_found_in_every_form() -> None:
    person = Person(
        name="Li",
        phones=("1", "2"),
        home=Address(street="Bund 1", region="Shanghai"),
        others=(Address(street="Bund 2", region="Shanghai"),),
        notes={"shoe": "38"},
        friend=Person(name="Wang", nickname="W"),
        reference="C-17",
    )

    sealed = seal_fields(person, marked)

    assert sealed == Person(
        name="<Li>",
        nickname=None,
        phones=("<1>", "<2>"),
        home=Address(street="<Bund 1>", region="Shanghai"),
        others=(Address(street="<Bund 2>", region="Shanghai"),),
        notes={"shoe": "<38>"},
        friend=Person(name="<Wang>", nickname="<W>"),
        reference="C-17",
    )
    assert person.name == "Li"


def test_the_sealed_fields_are_listed_for_the_docs() -> None:
    assert sealed_fields(Person) == ("name", "nickname", "phones", "home.street", "others.street", "notes")
    assert sealed_fields(Till) == ()


def test_data_without_sealed_fields_is_returned_as_it_is() -> None:
    till = Till(number=5, shop=("a",))
    assert seal_fields(till, marked) is till


@pytest.mark.parametrize("text", ["", "sealed.v1.k1.AAAA", "<Li>"])
def test_text_is_sealed_whatever_it_looks_like(text: str) -> None:
    assert seal_fields(Person(name=text), marked).name == f"<{text}>"


def test_a_form_that_cannot_be_walked_is_refused_and_never_passed_over() -> None:
    class Mixed(Data):
        """Sealed or a number."""

        either: Sealed | int

    class Listed(Data):
        """A set of sealed texts."""

        several: frozenset[Sealed]

    class Keyed(Data):
        """Personal data in the keys of a mapping."""

        by_name: dict[Sealed, str]

    with pytest.raises(TypeError, match="field either: a sealed field may be left out"):
        seal_fields(Mixed(either="x"), marked)
    with pytest.raises(TypeError, match="field several: sealed texts stand in"):
        seal_fields(Listed(several=frozenset({"x"})), marked)
    with pytest.raises(TypeError, match="field by_name: sealed texts stand in"):
        seal_fields(Keyed(by_name={"x": "y"}), marked)


SECRET = MasterKey(b"\x01" * 32).identity_secret


def test_an_identity_hash_is_stable_and_bound_to_all_its_parts() -> None:
    one = identity_hash(SECRET, "acme", "email", "li@example.com")
    assert one == identity_hash(SECRET, "acme", "email", "li@example.com")
    assert len(one) == 64
    others = {
        identity_hash(SECRET, "other", "email", "li@example.com"),
        identity_hash(SECRET, "acme", "phone", "li@example.com"),
        identity_hash(SECRET, "acme", "email", "wang@example.com"),
        identity_hash(SECRET, "acmee", "mail", "li@example.com"),
        identity_hash(MasterKey(b"\x02" * 32).identity_secret, "acme", "email", "li@example.com"),
    }
    assert len(others | {one}) == 6


def test_an_identity_hash_never_changes_with_a_release() -> None:
    # computed from RFC 5869 and RFC 2104 by hand
    assert (
        identity_hash(SECRET, "acme", "email", "li@example.com")
        == "1778646e8a60424190780fff2c57454c42ddb77c02641befa75c3ba9acb8640a"
    )


@pytest.mark.parametrize("size", [0, 16, 31, 33])
def test_a_master_key_has_32_bytes(size: int) -> None:
    with pytest.raises(MasterKeyUnsafe, match="must have 32 bytes"):
        MasterKey(b"x" * size)


def test_a_master_key_is_never_printed() -> None:
    secret = bytes(range(32))
    key = MasterKey(secret)
    assert repr(key) == f"MasterKey({key.fingerprint})"
    assert key.fingerprint not in secret.hex()
    assert key.fingerprint != MasterKey(bytes(reversed(secret))).fingerprint
