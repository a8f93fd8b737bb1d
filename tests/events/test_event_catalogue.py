"""The catalogue: what is declared is valid, kept for ever, and read as its newest version."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, get_args

import pytest
from pydantic import AwareDatetime, BaseModel

from shared.events import catalogue
from shared.events.catalogue import Catalogue, Data, EventType, InvalidData, Time, UnknownType
from shared.events.envelope import Event, decode, encode
from shared.sealing import seal_fields, sealed_fields

catalogue.load_all()
DECLARED = [pytest.param(each, id=each.name) for each in catalogue.every()]
OWNERS = {"contacts": "contacts", "door": "door", "points": "points", "runtime": "runtime"}
AT = datetime(2026, 1, 2, 10, tzinfo=UTC)


def an_event(type_name: str, data: Any) -> Event:
    return Event("1", "test", type_name, "acme", "c_01", AT, data)


@pytest.mark.parametrize("declared", DECLARED)
def test_an_example_is_valid_and_travels_unchanged(declared: EventType) -> None:
    read = catalogue.read(an_event(declared.name, dict(declared.example)))
    assert type(read.data) is catalogue.newest(declared.name).data

    back = catalogue.read(decode(encode(read)))

    assert back == read
    assert contains(decode(encode(read)).data, declared.example)


def contains(whole: Any, part: Any) -> bool:
    """Whether `part` stands in `whole` unchanged, where defaults may have joined it."""
    if isinstance(part, dict):
        return isinstance(whole, dict) and all(name in whole and contains(whole[name], part[name]) for name in part)
    if isinstance(part, list | tuple):
        return len(whole) == len(part) and all(contains(one, other) for one, other in zip(whole, part, strict=True))
    return bool(whole == part and type(whole) is type(part))


@pytest.mark.parametrize("declared", DECLARED)
def test_a_declaration_keeps_the_house_rules(declared: EventType) -> None:
    assert re.fullmatch(r"[a-z]+(\.[a-z_]+)*\.v[1-9][0-9]*", declared.name)
    assert declared.owner == OWNERS[declared.data.__module__.rpartition(".")[2]], "declared in its owner's module"
    assert declared.summary, f"{declared.data.__name__} needs a docstring of its own: it is the catalogue's summary"
    assert not (declared.everywhere and declared.kind != "letter"), "only a letter is told everywhere"
    for shape in shapes(declared.data):
        for name, field in shape.model_fields.items():
            assert not bare_time(field.annotation, field.metadata), f"{shape.__name__}.{name}: use catalogue.Time"
            assert field.annotation is not float, f"{shape.__name__}.{name}: amounts are whole numbers"


def shapes(declared: type[BaseModel], seen: set[type[BaseModel]] | None = None) -> Iterator[type[BaseModel]]:
    seen = set() if seen is None else seen
    if declared in seen:
        return
    seen.add(declared)
    yield declared
    for field in declared.model_fields.values():
        for part in parts(field.annotation):
            if isinstance(part, type) and issubclass(part, BaseModel):
                yield from shapes(part, seen)


def parts(annotation: Any) -> Iterator[Any]:
    yield annotation
    for part in getattr(annotation, "__args__", ()):
        yield from parts(part)


def bare_time(annotation: Any, metadata: Any) -> bool:
    """A datetime that would take a time without a zone, or a number."""
    if annotation is datetime or annotation is AwareDatetime:
        return not any(marker in metadata for marker in get_args(Time)[1:])
    if getattr(annotation, "__metadata__", None):
        return bare_time(annotation.__origin__, annotation.__metadata__)
    return any(bare_time(part, ()) for part in getattr(annotation, "__args__", ()))


@pytest.mark.parametrize("declared", DECLARED)
def test_every_sealed_field_can_be_sealed(declared: EventType) -> None:
    data = declared.data.model_validate(declared.example)

    sealed = seal_fields(data, lambda _text: "sealed.v1.k1.AAAA")

    assert (sealed is data) == (sealed_fields(declared.data) == ())


def test_an_identity_is_sealed() -> None:
    assert sealed_fields(catalogue.find("contact.identified.v1").data) == ("identities.value",)


def test_an_unknown_type_is_named() -> None:
    with pytest.raises(UnknownType, match=r"'no\.such\.v1' is not in the catalogue"):
        catalogue.read(an_event("no.such.v1", {}))
    assert not catalogue.known("no.such.v1")


def test_invalid_data_names_its_fields_and_not_their_values() -> None:
    purchase: dict[str, Any] = dict(catalogue.find("purchase.completed.v1").example)
    purchase["lines"] = [{**purchase["lines"][0], "amount_minor": 12.5}]
    with pytest.raises(InvalidData, match=r"lines\.0\.amount_minor: Input should be a valid integer") as caught:
        catalogue.read(an_event("purchase.completed.v1", {**purchase, "currency": "secret@example.com"}))
    assert "currency" in str(caught.value)
    assert "secret@example.com" not in str(caught.value)
    with pytest.raises(InvalidData, match="data: Input should be a valid dictionary"):
        catalogue.read(an_event("purchase.completed.v1", None))


def test_the_list_of_problems_is_bounded() -> None:
    purchase: dict[str, Any] = dict(catalogue.find("purchase.completed.v1").example)
    with pytest.raises(InvalidData, match=r"; and 49[01] more$"):
        catalogue.read(an_event("purchase.completed.v1", {**purchase, "lines": [5] * 500}))


@pytest.mark.parametrize("amount", [10**15 + 1, 2**63, -1, 1.0, "5", True, None])
def test_an_amount_that_is_no_amount_is_refused(amount: object) -> None:
    purchase: dict[str, Any] = dict(catalogue.find("purchase.completed.v1").example)
    purchase["lines"] = [{**purchase["lines"][0], "amount_minor": amount}]
    with pytest.raises(InvalidData, match=r"lines\.0\.amount_minor"):
        catalogue.read(an_event("purchase.completed.v1", purchase))


class At(Data):
    """It has a time."""

    at: Time
    maybe: Time | None = None


def test_a_time_is_kept_in_utc() -> None:
    assert (
        At.model_validate({"at": "2026-01-02T18:00:00+08:00"}).model_dump(mode="json")["at"] == "2026-01-02T10:00:00Z"
    )
    assert At(at=AT).at is not None


@pytest.mark.parametrize("given", ["2026-01-02T10:00:00", "2026-01-02", 1767348000, datetime(2026, 1, 2), None, "now"])  # noqa: DTZ001
def test_a_time_without_a_zone_is_refused(given: object) -> None:
    with pytest.raises(ValueError, match="at"):
        At.model_validate({"at": given})
    if given is not None:
        with pytest.raises(ValueError, match="maybe"):
            At.model_validate({"at": AT, "maybe": given})


# Versions: a registry of its own, so that nothing of it is ever taken for a released type.


class WeighedV1(Data):
    """A parcel was weighed, in grams."""

    grams: int


class WeighedV2(Data):
    """A parcel was weighed, with its unit."""

    amount: int
    unit: str


class WeighedV3(Data):
    """A parcel was weighed, by somebody."""

    amount: int
    unit: str
    by: str


@pytest.fixture
def parcels() -> Catalogue:
    registry = Catalogue()
    registry.declare("parcel.weighed.v1", "post", "fact", {"grams": 5})(WeighedV1)
    registry.declare("parcel.weighed.v2", "post", "fact", {"amount": 5, "unit": "g"})(WeighedV2)
    registry.declare("parcel.weighed.v3", "post", "fact", {"amount": 5, "unit": "g", "by": "Li"})(WeighedV3)

    @registry.upcast("parcel.weighed.v1", "parcel.weighed.v2")
    def with_unit(old: WeighedV1) -> WeighedV2:
        return WeighedV2(amount=old.grams, unit="g")

    @registry.upcast("parcel.weighed.v2", "parcel.weighed.v3")
    def with_person(old: WeighedV2) -> WeighedV3:
        return WeighedV3(amount=old.amount, unit=old.unit, by="")

    return registry


def test_an_old_version_is_read_as_the_newest(parcels: Catalogue) -> None:
    old = an_event("parcel.weighed.v1", {"grams": 7})

    read = parcels.read(old)

    assert (read.type, read.data) == ("parcel.weighed.v3", WeighedV3(amount=7, unit="g", by=""))
    assert (read.id, read.time, read.subject) == (old.id, old.time, old.subject)
    assert parcels.read(read) == read
    assert parcels.newest("parcel.weighed.v1").name == "parcel.weighed.v3"


def test_an_old_version_is_checked_as_it_was_declared(parcels: Catalogue) -> None:
    with pytest.raises(InvalidData, match=r"parcel\.weighed\.v1: grams: Field required"):
        parcels.read(an_event("parcel.weighed.v1", {"amount": 7, "unit": "g"}))


def test_a_version_after_the_newest_is_unknown(parcels: Catalogue) -> None:
    with pytest.raises(UnknownType):
        parcels.read(an_event("parcel.weighed.v4", {}))


def test_an_upcast_must_answer_with_the_declared_model() -> None:
    registry = Catalogue()
    registry.declare("parcel.weighed.v1", "post", "fact", {"grams": 5})(WeighedV1)
    registry.declare("parcel.weighed.v2", "post", "fact", {"amount": 5, "unit": "g"})(WeighedV2)
    registry.upcast("parcel.weighed.v1", "parcel.weighed.v2")(lambda old: old)
    with pytest.raises(TypeError, match=r"upcast to parcel\.weighed\.v2 answered with WeighedV1"):
        registry.read(an_event("parcel.weighed.v1", {"grams": 1}))


@pytest.mark.parametrize("to_name", ["parcel.weighed.v3", "parcel.sent.v2"])
def test_an_upcast_goes_to_the_next_version_of_its_family(to_name: str) -> None:
    registry = Catalogue()
    registry.declare("parcel.weighed.v1", "post", "fact", {"grams": 5})(WeighedV1)
    registry.declare(to_name, "post", "fact", {"amount": 5, "unit": "g"})(WeighedV2)
    with pytest.raises(ValueError, match="from each version to the next"):
        registry.upcast("parcel.weighed.v1", to_name)


def test_a_step_is_declared_once(parcels: Catalogue) -> None:
    with pytest.raises(ValueError, match="goes once"):
        parcels.upcast("parcel.weighed.v1", "parcel.weighed.v2")


@pytest.mark.parametrize(
    "name", ["parcel.weighed", "Parcel.weighed.v1", "parcel.weighed.v0", "parcel weighed.v1", ".v1"]
)
def test_a_name_without_noun_or_version_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="is not a name like"):
        Catalogue().declare(name, "post", "fact", {"grams": 5})(WeighedV1)


def test_a_name_and_a_class_are_declared_once(parcels: Catalogue) -> None:
    class Another(Data):
        """Another."""

    with pytest.raises(ValueError, match="declared twice"):
        parcels.declare("parcel.weighed.v1", "post", "fact", {})(Another)
    with pytest.raises(ValueError, match="declared twice"):
        parcels.declare("parcel.lifted.v1", "post", "fact", {})(WeighedV1)
