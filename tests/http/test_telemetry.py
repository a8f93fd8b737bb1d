"""Log lines are JSON, whole, and without personal data; metrics come from the catalogue."""

import json
import logging
import re
from pathlib import Path

import pytest

from shared.http.problems import BadPosition
from shared.telemetry import CATALOGUE, HTTP_REQUESTS, JsonFormatter, Metric, Metrics, correlation_id, metrics_table


def line(message: str = "moved", **extra: object) -> dict[str, object]:
    record = logging.makeLogRecord(
        {"name": "regulars.test", "levelno": 20, "levelname": "INFO", "msg": message} | extra
    )
    text = JsonFormatter("points").format(record)
    assert "\n" not in text
    parsed: dict[str, object] = json.loads(text)
    return parsed


def test_a_line_has_the_standard_members_and_the_extra_fields() -> None:
    token = correlation_id.set("c-1")
    try:
        shown = line(tenant="acme", offset=7, topics=["a"], path=Path("x"))
    finally:
        correlation_id.reset(token)
    shown.pop("time")
    assert shown == {
        "level": "info",
        "logger": "regulars.test",
        "service": "points",
        "message": "moved",
        "correlation_id": "c-1",
        "tenant": "acme",
        "offset": 7,
        "topics": ["a"],
        "path": repr(Path("x")),
    }


def test_fields_that_may_hold_personal_data_are_left_out() -> None:
    shown = line(email="li@example.com", Phone="123", body=b"x", secret="s")
    assert [shown[name] for name in ("email", "Phone", "body", "secret")] == ["(left out)"] * 4


def test_a_line_break_or_a_surrogate_in_a_message_does_not_break_the_line() -> None:
    assert line("one\ntwo")["message"] == "one\ntwo"
    assert "message" in line("\ud800")
    assert "at" in line(at="\ud800", big=2**80, odd={1: float("nan")})


def raised(error: BaseException) -> dict[str, object]:
    try:
        try:
            raise KeyError("li@example.com")
        except KeyError as cause:
            raise error from cause
    except type(error) as caught:
        shown = line(exc_info=(type(caught), caught, caught.__traceback__))["fault"]
    assert isinstance(shown, dict)
    return shown


def test_a_fault_shows_our_own_words_and_not_what_others_quote() -> None:
    ours = raised(BadPosition("Send it unchanged."))
    assert ours["detail"] == "Send it unchanged."
    assert ours["cause"] == {"type": "builtins.KeyError", "frames": ours["cause"]["frames"]}  # type: ignore[index]
    theirs = raised(ValueError("li@example.com"))
    assert "detail" not in theirs
    assert "li@example.com" not in json.dumps(theirs)


def test_the_catalogue_is_well_formed_and_every_metric_can_be_used() -> None:
    metrics = Metrics()
    for metric in CATALOGUE:
        assert re.fullmatch("regulars_[a-z_]+", metric.name)
        assert metric.name.endswith("_total") == (metric.kind == "counter")
        assert not {"tenant", "contact", "subject"} & set(metric.labels)
        labels = dict.fromkeys(metric.labels, "x")
        match metric.kind:
            case "counter":
                metrics.count(metric, 1, **labels)
            case "gauge":
                metrics.set(metric, 1, **labels)
            case "histogram":
                metrics.observe(metric, 0.5, **labels)
        assert f"`{metric.name}`" in metrics_table()
        assert metric.name.encode() in metrics.exposition()


def test_registries_do_not_share_and_services_add_rows() -> None:
    own = Metric("regulars_lots_lapsed_total", "counter", (), "Lots that lapsed.")
    one, two = Metrics((*CATALOGUE, own)), Metrics()
    one.count(own)
    one.count(HTTP_REQUESTS, method="GET", route="/", status="200")
    assert b"regulars_lots_lapsed_total 1.0" in one.exposition()
    assert b'route="/"' not in two.exposition()
    with pytest.raises(KeyError):
        two.count(own)
