"""Every example in docs/programs.md, run: documents, expiry table, conditions, and what the example order earns."""

import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args
from zoneinfo import ZoneInfo

import pytest
from pydantic import TypeAdapter

from services.points.programs import checks
from services.points.programs.checks import OUR_NAMESPACES, read_document
from services.points.programs.conditions import compile_condition, names
from services.points.programs.dates import expires_at
from services.points.programs.document import Expiry
from services.points.programs.domain import MemberFacts, happened_from
from services.points.programs.evaluate import Reason, compile_program, evaluate
from shared.events.door import PurchaseCompleted
from shared.events.envelope import Event

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "programs.md").read_text(encoding="utf-8")
BLOCKS = [json.loads(text) for text in re.findall(r"^```json\n(.*?)^```", PAGE, re.M | re.S)]
ORDER = json.loads(re.findall(r"^```json order\n(.*?)^```", PAGE, re.M | re.S)[0])
NEW_YORK = ZoneInfo("America/New_York")


def table(header: str) -> list[list[str]]:
    """The rows of the tables with this header."""
    found: list[list[str]] = []
    for part in PAGE.split(f"\n| {header} |")[1:]:
        rows = part.split("\n\n", 1)[0].split("\n")[2:]
        found += [[cell.strip() for cell in re.split(r"(?<!\\)\|", row.strip("|\n "))] for row in rows]
    return found


def in_program(part: dict[str, Any]) -> dict[str, Any]:
    return {**BLOCKS[0], **part}


@pytest.mark.parametrize("part", BLOCKS)
def test_every_document_on_the_page_may_be_published(part: dict[str, Any]) -> None:
    document = read_document(in_program(part)).model_dump(mode="json")
    assert part.keys() <= document.keys()


def test_the_page_shows_every_part_of_a_document() -> None:
    assert len(BLOCKS) == 5
    assert {key for part in BLOCKS for key in part} == {"name", "wallets", "rules", "tiers", "redemption"}


def test_points_lapse_as_the_page_says() -> None:
    rows = table("expiry | earned (New York) | gone at (New York)")
    assert len(rows) == 10
    for expiry, earned, gone in rows:
        parsed: Expiry = TypeAdapter(Expiry).validate_json(expiry.strip("`"))
        at = datetime.fromisoformat(earned).replace(tzinfo=NEW_YORK).astimezone(UTC)
        end = expires_at(parsed, at, "America/New_York")
        assert (f"{end.astimezone(NEW_YORK):%Y-%m-%d %H:%M}" if end else "never") == gone, expiry


def test_every_condition_on_the_page_compiles() -> None:
    purchases, customs = (
        part.split("\n## ")[0].split("Available are")[0]
        for part in PAGE.split("Conditions on `purchase.completed`:")[1].split("Conditions on an event of your own:")
    )
    for text, purchase, least in ((purchases, True, 13), (customs, False, 5)):
        conditions = re.findall(r"^\| `(.+?)` \|", text, re.M)
        assert len(conditions) == least
        for condition in conditions:
            assert compile_condition(condition, purchase=purchase, wallets=("points",)).expression is not None


def test_the_page_names_every_name_of_a_condition() -> None:
    listed = {name for row in table("name |") for name in re.findall(r"`([a-z_.]+)`", row[0])}
    assert listed | {"event.fields"} == set(names(True, ("points",))) | set(names(False, ("points",)))


def test_the_page_names_every_reason_problem_and_word() -> None:
    assert {name for row in table("reason |") for name in re.findall(r"`([a-z-]+)`", row[0])} == set(get_args(Reason))
    source = Path(checks.__file__).read_text(encoding="utf-8")
    codes = set(re.findall(r'"([a-z]+(?:-[a-z]+)+|malformed)"', source))
    assert {name for row in table("code |") for name in re.findall(r"`([a-z-]+)`", row[0])} == codes
    words = re.search(r"events begin with: (.*?)\.\n", PAGE, re.S)
    assert words is not None
    assert set(re.findall(r"`([a-z]+)`", words[1])) == OUR_NAMESPACES


def test_the_order_on_the_page_earns_what_it_says() -> None:
    program = compile_program(read_document(in_program(BLOCKS[2])))
    time = datetime(2026, 5, 15, 12, tzinfo=UTC)
    event = Event("e", "s", "purchase.completed.v1", "a", "c", time, PurchaseCompleted.model_validate(ORDER))
    evaluation = evaluate(program, happened_from(event, MemberFacts(), zone="UTC", currency="USD"))
    found = [[award.rule, award.wallet, award.line_id, str(award.points)] for award in evaluation.awards]
    said = [[cell.strip("`") for cell in row] for row in table("rule | wallet | line | points")]
    order = [rule.code for rule in program.document.rules]
    assert sorted(found) == sorted(said)
    assert [row[0] for row in found] == sorted((row[0] for row in found), key=order.index)
