"""What must hold after a round: nothing acknowledged is lost, nothing is applied twice.

Each check returns sentences about what is wrong; an empty list is a proof.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, Final

from shared.events.envelope import Event
from tests.crash.notes import Answer, Body, EventNote, Named, Notebook, RequestNote
from tests.crash.stream import Stream, by_name

CONFLICT: Final = "conflict"
FACT_OF: Final = {
    "purchase.completed": "purchase.completed.v1",
    "custom.recorded": "custom.recorded.v1",
    "purchase.refunded": "purchase.refunded.v1",
}
SETTLEMENTS: Final = frozenset({"purchase.refunded.v1", "refund.refused.v1"})
TOLD_ONCE: Final = frozenset({"api_key"})


# ---- law 2: what was told is in the log, once


def event_faults(notebook: Notebook, stream: Stream) -> Iterator[str]:
    """Every acknowledged event is one fact with what was sent, and every contradiction one refusal."""
    facts = by_name([event for event in stream.events if event.producer.startswith("door.")])
    for named, note in notebook.events.items():
        found = facts.get(named, [])
        conflicts = [event for event in found if _reason(event) == CONFLICT]
        others = {answer.content for answer in note.told if answer.content > 0}
        if len(conflicts) != len(others):
            yield f"{named}: {len(others)} contradictions sent, {len(conflicts)} recorded"
        main = [event for event in found if event not in conflicts]
        if note.acknowledged:
            yield from _main_faults(named, note, main)


def _main_faults(named: Named, note: EventNote, found: list[Event]) -> Iterator[str]:
    kinds = Counter(event.type for event in found)
    sent = note.contents[0]
    deferred = kinds.pop("refund.deferred.v1", 0)
    settled = kinds.keys() <= SETTLEMENTS and kinds.total() <= 1
    if deferred > 1 or (deferred and not settled) or (not deferred and kinds.total() != 1):
        yield f"{named}: acknowledged, and on the stream as {[event.type for event in found]}"
        return
    if not deferred and not kinds.keys() <= {FACT_OF[sent["type"]], "delivery.refused.v1"}:
        yield f"{named}: a {sent['type']} became {list(kinds)}"
    for event in found:
        if event.type in FACT_OF.values() and (wrong := _differs(sent["data"], event.data)):
            yield f"{named}: recorded with another {wrong}"
    for answer in note.told:
        if answer.content == 0 and answer.status == 200:
            yield from _receipt_faults(named, answer.body, found)


def _differs(sent: Body, recorded: Body) -> str:
    """The first field that was not recorded as it was sent; what the door adds is not looked at."""
    for name, value in sent.items():
        if name == "customer":
            continue
        if name == "lines":
            pairs = zip(value, recorded["lines"], strict=False)
            if len(value) != len(recorded["lines"]) or any(_differs(ours, theirs) for ours, theirs in pairs):
                return name
        elif recorded.get(name) != value:
            return name
    return "store" if recorded.get("store") and "store" not in sent else ""


def _receipt_faults(named: Named, told: Body, found: list[Event]) -> Iterator[str]:
    types = {event.type for event in found}
    refused = [event for event in found if event.type in ("delivery.refused.v1", "refund.refused.v1")]
    match told["status"]:
        case "recorded":
            right = bool(types & set(FACT_OF.values()))
        case "deferred":
            right = "refund.deferred.v1" in types
        case "refused":
            right = any(_reason(event) == told.get("reason") for event in refused)
        case "duplicate":
            right = bool(found)
        case _:
            right = False
    if not right:
        yield f"{named}: was told {told}, and stands on the stream as {sorted(types)}"


def _reason(event: Event) -> str:
    return str(event.data.get("reason", "")) if isinstance(event.data, dict) else ""


def request_faults(notebook: Notebook, stream: Stream) -> Iterator[str]:
    """Every key has one outcome on the stream, and all that was told under it is that outcome."""
    outcomes: dict[tuple[str, str], list[Event]] = {}
    for event in stream.events:
        if event.request_key:
            outcomes.setdefault((event.producer.partition(".")[0], event.request_key), []).append(event)
    for asked, events in outcomes.items():
        if len(events) != 1:
            yield f"{asked} has {len(events)} outcomes: {[event.type for event in events]}"
    for key, note in notebook.requests.items():
        found = outcomes.get((note.worker, key), [])
        if note.decided and not found:
            yield f"{key}: was told {note.decided[0]}, and no outcome is on the stream"
        elif found:
            for answer in note.decided:
                yield from _answer_faults(key, note, answer, found[0])


def _answer_faults(key: str, note: RequestNote, answer: Answer, outcome: Event) -> Iterator[str]:
    refused = outcome.type == "request.refused.v1"
    if refused != (answer.status == 409):
        yield f"{key}: was told {answer.status}, the outcome is {outcome.type}"
        return
    if refused and not str(answer.body.get("type", "")).endswith(_reason(outcome)):
        yield f"{key}: was told {answer.body.get('type')}, refused for {_reason(outcome)}"
    for name in answer.body.keys() & outcome.data.keys() if not refused else ():
        if _plain(answer.body[name]) != _plain(outcome.data[name]) and name not in ("lots", *TOLD_ONCE):
            yield f"{key}: was told {name} {answer.body[name]}, the outcome has {outcome.data[name]}"
    first = note.decided[0]
    if _lasting(first.body) != _lasting(answer.body):
        yield f"{key}: was told {first.body}, and later {answer.body}"


def _plain(value: Any) -> Any:
    return sorted(value) if isinstance(value, list) and all(isinstance(each, str) for each in value) else value


def _lasting(body: Body) -> Mapping[str, Any]:
    return {name: value for name, value in body.items() if name not in (*TOLD_ONCE, "instance", "correlation_id")}


def effect_faults(stream: Stream) -> Iterator[str]:
    """Each purchase, event and refund was put to the rules once, and earned or gave back at most once."""
    seen: dict[str, Counter[Named]] = {kind: Counter() for kind in ("asked", "evaluated", "earned", "reversed")}
    for event in stream.events:
        match event.type:
            case "purchase.completed.v1" | "custom.recorded.v1" | "purchase.refunded.v1":
                seen["asked"][event.source, event.id] += 1
            case "rules.evaluated.v1":
                seen["evaluated"][event.data["event_source"], event.data["event_id"]] += 1
            case "points.earned.v1":
                seen["evaluated"][event.data["event_source"], event.data["event_id"]] += 1
                seen["earned"][event.data["event_source"], event.data["event_id"]] += 1
            case "points.reversed.v1":
                seen["reversed"][event.data["event_source"], event.data["event_id"]] += 1
            case _:
                pass
    for named, times in seen["asked"].items():
        if times != 1:
            yield f"{named} is {times} facts"
        if (said := seen["evaluated"][named] + seen["reversed"][named]) != 1:
            yield f"{named} was put to the rules {said} times"
        if seen["earned"][named] > 1:
            yield f"{named} earned {seen['earned'][named]} times"
    for named in seen["earned"].keys() | seen["reversed"].keys() | seen["evaluated"].keys():
        if named not in seen["asked"]:
            yield f"{named} had effects and never happened"
