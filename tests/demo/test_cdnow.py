"""The demo's purchases: read exactly, and what is added to them follows docs/demo.md."""

from datetime import date
from pathlib import Path
from typing import Any

import pytest

from regulars.cdnow import (
    Order,
    clock_of,
    days,
    parse_orders,
    purchase,
    read_orders,
    redemption,
    refund,
    tenth,
)
from regulars.replay import most_loyal
from tests.recount import recount


def ordered(number: int, day: str, dollars: str, customer: str = "00001", pieces: int = 1) -> Order:
    whole, cents = dollars.split(".")
    return Order(number, customer, date.fromisoformat(day), pieces, int(whole) * 100 + int(cents))


def test_the_whole_file_is_read_in_cents() -> None:
    orders = read_orders()
    assert len(orders) == 69_659
    assert len({order.customer for order in orders}) == 23_570
    assert orders[0] == ordered(1, "1997-01-01", "11.77")
    assert max(order.amount_minor for order in orders) == 128_601
    assert (min(order.day for order in orders), max(order.day for order in orders)) == (
        date(1997, 1, 1),
        date(1998, 6, 30),
    )


@pytest.mark.parametrize("dollars", ["11.7", "11", "11.777", "eleven"])
def test_an_amount_that_is_not_dollars_and_cents_is_refused(dollars: str) -> None:
    with pytest.raises(ValueError):
        parse_orders(f"headings\n 00001 19970101 1 {dollars}\n")


def test_a_tenth_is_a_tenth_of_the_customers_with_all_their_orders() -> None:
    orders = read_orders()
    some = tenth(orders, 7)
    customers = {order.customer for order in some}
    assert len(customers) == 2_357
    assert some == [order for order in orders if order.customer in customers] == tenth(orders, 7)
    assert some != tenth(orders, 8)


def test_every_day_comes_also_one_without_orders() -> None:
    found = days([ordered(1, "1997-01-01", "5.00"), ordered(2, "1997-01-04", "6.00")])
    assert [day.day.day for day in found] == [1, 2, 3, 4]
    assert [len(day.orders) for day in found] == [1, 0, 0, 1]


def test_each_fiftieth_order_returns_one_piece_ten_days_later() -> None:
    fiftieth = ordered(50, "1997-01-01", "10.00", pieces=3)
    found = days([fiftieth, ordered(51, "1997-01-11", "6.00"), ordered(100, "1997-01-08", "9.00")])
    assert [day.day for day in found if day.refunds] == [date(1997, 1, 11)], "the other would come after the last day"
    event = refund(fiftieth)
    assert (event["time"], event["id"]) == ("1997-01-11T16:00:00+00:00", "refund-50")
    assert event["data"]["lines"] == [{"line_id": "1", "quantity": 1, "amount_minor": 333}]


def test_who_bought_for_150_dollars_in_a_month_asks_to_redeem_on_the_first_of_the_next() -> None:
    found = days(
        [
            ordered(1, "1997-01-02", "100.00", "00007"),
            ordered(2, "1997-01-31", "50.00", "00007"),
            ordered(3, "1997-01-31", "149.99", "00008"),
            ordered(4, "1997-03-02", "1.00", "00008"),
        ]
    )
    asking = {day.day: day.redemptions for day in found if day.redemptions}
    assert [(day, [one.customer for one in ones]) for day, ones in asking.items()] == [(date(1997, 2, 1), ["00007"])]
    body = redemption(asking[date(1997, 2, 1)][0])
    assert body == {
        "identity": {"kind": "reference", "value": "https://cdnow.example/shop 00007"},
        "wallet": "points",
        "points": 200,
        "reference": "month 1997-01",
    }


def test_an_order_is_reported_at_noon_in_new_york_before_the_clocks_time_of_that_day() -> None:
    order = ordered(3, "1997-07-01", "20.76", "00003", 2)
    event = purchase(order)
    assert event["time"] == "1997-07-01T17:00:00+00:00" < clock_of(order.day).isoformat()
    assert event["data"]["lines"] == [{"line_id": "1", "sku": "CD", "quantity": 2, "amount_minor": 2076}]
    assert event["data"]["order_id"] == "3"


def test_the_member_shown_is_the_one_with_the_most_orders() -> None:
    found = days([ordered(n, "1997-01-02", "1.00", customer) for n, customer in enumerate(("b", "a", "a", "b"), 1)])
    assert most_loyal(found) == "a"


def test_the_recount_plans_the_same_from_the_file_alone() -> None:
    orders = tenth(read_orders(), 3)
    path = Path(str(_spec().submodule_search_locations[0])) / "datasets" / "CDNOW_master.txt"
    _, sent = recount.count(recount.tenth(recount.read(path.read_text()), 3))
    planned = days(orders)
    assert sent["orders"] == len(orders)
    assert sent["refunds"] == sum(len(day.refunds) for day in planned)
    assert sent["redeemed"] + sent["refused"] == sum(len(day.redemptions) for day in planned)


def _spec() -> Any:
    import importlib.util

    return importlib.util.find_spec("lifetimes")
