"""API answers in a person's words, for the demo."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

BECAME: Final = {
    "points.earned.v1": "earned",
    "points.redeemed.v1": "redeemed",
    "points.expired.v1": "lapsed",
    "points.reversed.v1": "taken back by a refund",
    "points.adjusted.v1": "adjusted",
}


def told_member(member: Mapping[str, Any]) -> Iterator[str]:
    """An answer of `GET /v1/members/{contact}`."""
    for wallet in member["wallets"]:
        line = f"{wallet['available']:,} in {wallet['wallet']}"
        if soon := wallet["expiring_next"]:
            line += f", of which {soon['points']:,} lapse on {soon['at'][:10]}"
        yield line
    if tier := member["tier"]:
        line = f"tier {tier['name']}, {tier['qualified']:,} status points in this period"
        if above := tier["next"]:
            line += f", {above['missing']:,} short of {above['name']}"
        yield line


def told_line(explained: Mapping[str, Any]) -> Iterator[str]:
    """An answer of `GET /v1/explain/entries/{entry}` for a line that a rule wrote."""
    entry, rule, event = explained["entry"], explained["rule"], explained["event"]
    named = rule["definition"]["name"]
    yield f"{entry['change']:+,} {entry['wallet']} on {entry['effective_at'][:10]}, line {entry['number']}"
    yield f"by rule {rule['rule']} of program {rule['program']}, version {rule['version']}: {named}"
    yield f"because of {entry['event_id']} from {entry['event_source']}, with {told_inputs(rule['inputs'])}"
    for other in event["rules"] if event else ():
        if not other["fired"]:
            yield f"rule {other['rule']} did not fire: {other['reason']}, with {told_inputs(other['inputs'])}"
    if lot := explained["lot"]:
        lapses = f", lapses on {lot['expires_at'][:10]}" if lot["expires_at"] else ""
        yield f"its lot has {lot['remaining']:,} of {lot['earned']:,} left{lapses}"
        for line in explained["lot_entries"]:
            what = BECAME.get(line["fact_type"], line["fact_type"])
            yield f"  {line['effective_at'][:10]}  {line['change']:+,} {what} {line['reference']}".rstrip()


def told_inputs(inputs: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} = {value}" for name, value in inputs.items()) or "no inputs"
