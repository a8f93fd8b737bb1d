"""What `docs/events/` says is what the code does."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator, FormatChecker
from referencing import Registry, Resource

from shared.events import catalogue
from shared.events.catalogue import CATALOGUE, Catalogue, Data, EventType
from shared.events.generate import COMMAND, HOME, broken_promises, examples, render, sample, write

catalogue.load_all()
RENDERED = render(CATALOGUE)
ASYNCAPI: dict[str, Any] = yaml.safe_load(RENDERED["asyncapi.yaml"])
DECLARED = [pytest.param(each, id=each.name) for each in catalogue.every()]
SCHEMAS = {name: json.loads(text) for name, text in RENDERED.items() if name.startswith("schemas/")}


def test_the_generated_files_are_current() -> None:
    written = {str(path.relative_to(HOME)) for path in HOME.rglob("*") if path.is_file()}
    expected = {**RENDERED, **examples(CATALOGUE)}
    stale = [name for name, text in expected.items() if not same(HOME / name, text)]
    assert stale == [], f"not current: run `{COMMAND}`"
    assert written == set(expected), f"files too many: run `{COMMAND}`"


def same(path: Path, text: str) -> bool:
    return path.exists() and path.read_text("utf-8") == text


def test_released_examples_are_never_edited() -> None:
    assert broken_promises(CATALOGUE, HOME) == []


@pytest.mark.parametrize("declared", DECLARED)
def test_an_example_fits_its_published_schema(declared: EventType) -> None:
    schema = SCHEMAS[f"schemas/{declared.name}.schema.json"]
    Draft202012Validator.check_schema(schema)
    Draft202012Validator(schema, format_checker=FormatChecker()).validate(json.loads(json.dumps(declared.example)))


@pytest.mark.parametrize("declared", DECLARED)
def test_a_published_message_fits_its_payload(declared: EventType) -> None:
    message = ASYNCAPI["components"]["messages"][declared.name]
    registry = Registry().with_resources((f"./{name}", Resource.from_contents(s)) for name, s in SCHEMAS.items())
    payload = Draft202012Validator(message["payload"], registry=registry)
    payload.validate(sample(declared))
    assert not payload.is_valid({**sample(declared), "type": "another.v1"})


def test_each_type_has_one_sender_and_stands_on_its_channel() -> None:
    for declared in catalogue.every():
        senders = [
            operation
            for operation in ASYNCAPI["operations"].values()
            if operation["action"] == "send" and any(name_of(ref) == declared.name for ref in operation["messages"])
        ]
        everybody = declared.owner == "runtime"
        assert len(senders) == (3 if everybody else 1), declared.name
        on_stream = declared.name in ASYNCAPI["channels"]["events"]["messages"]
        assert on_stream == (declared.kind != "request")


def name_of(reference: dict[str, str]) -> str:
    return reference["$ref"].rpartition("/")[2]


def test_every_reference_resolves() -> None:
    for reference in references(ASYNCAPI):
        if reference.startswith("./"):
            assert reference.removeprefix("./") in RENDERED
            continue
        place: Any = ASYNCAPI
        for step in reference.removeprefix("#/").split("/"):
            place = place[step]
    assert len(list(references(ASYNCAPI))) > 100


def references(part: Any) -> list[str]:
    if isinstance(part, list):
        return [found for each in part for found in references(each)]
    if not isinstance(part, dict):
        return []
    own = [part["$ref"]] if isinstance(part.get("$ref"), str) else []
    return own + [found for each in part.values() for found in references(each)]


def test_the_page_shows_every_type_and_says_what_is_sealed() -> None:
    page = RENDERED["README.md"]
    for declared in catalogue.every():
        assert f"\n## {declared.name}\n" in page
    assert "| `identities[].value` | sealed text | yes |" in page
    assert SCHEMAS["schemas/contact.identified.v1.schema.json"]["$defs"]["Identity"]["properties"]["value"]["x-sealed"]


class Weighed(Data):
    """A parcel was weighed."""

    grams: int


def parcels(example: dict[str, object], data: type[Data] = Weighed) -> Catalogue:
    registry = Catalogue()
    registry.declare("parcel.weighed.v1", "post", "fact", example)(data)
    return registry


def test_an_example_is_written_once(tmp_path: Path) -> None:
    write(parcels({"grams": 5}), tmp_path)
    released = (tmp_path / "examples" / "parcel.weighed.v1.json").read_text("utf-8")

    with pytest.raises(SystemExit, match=r"parcel\.weighed\.v1: its released example was edited"):
        write(parcels({"grams": 6}), tmp_path)

    assert (tmp_path / "examples" / "parcel.weighed.v1.json").read_text("utf-8") == released
    write(parcels({"grams": 5}), tmp_path)


def test_a_released_type_stays_declared(tmp_path: Path) -> None:
    write(parcels({"grams": 5}), tmp_path)
    assert broken_promises(Catalogue(), tmp_path) == ["parcel.weighed.v1 was released and is no longer declared"]


def test_a_released_example_stays_readable(tmp_path: Path) -> None:
    class Stricter(Data):
        """A parcel was weighed by somebody."""

        grams: int
        by: str

    write(parcels({"grams": 5}), tmp_path)
    assert broken_promises(parcels({"grams": 5}, Stricter), tmp_path) == [
        "parcel.weighed.v1: its released example is no longer read: parcel.weighed.v1: by: Field required"
    ]


def test_the_schema_of_a_type_that_is_gone_is_removed(tmp_path: Path) -> None:
    write(parcels({"grams": 5}), tmp_path)
    (tmp_path / "schemas" / "parcel.lost.v1.schema.json").write_text("{}")
    write(parcels({"grams": 5}), tmp_path)
    assert {path.name for path in (tmp_path / "schemas").iterdir()} == {
        "envelope.schema.json",
        "parcel.weighed.v1.schema.json",
    }
