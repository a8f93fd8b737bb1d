"""The sample program: what the demo publishes, and what its recounts are made against."""

from typing import Any, Final

SAMPLE_PROGRAM: Final[dict[str, Any]] = {
    "name": "Record Club",
    "wallets": [
        {
            "code": "points",
            "kind": "redeemable",
            "name": "Points",
            "expiry": {"kind": "rolling", "months": 12, "round": "month"},
        },
        {"code": "status", "kind": "qualifying", "name": "Status points"},
    ],
    "rules": [
        {
            "code": "dollar",
            "name": "1 point for each dollar of an order",
            "on": "purchase.completed",
            "effect": {"kind": "per_amount", "wallet": "points", "points": 1, "per_minor": 100},
        },
        {
            "code": "member_day",
            "name": "Double points on the 15th",
            "on": "purchase.completed",
            "when": "event.day == 15",
            "effect": {"kind": "multiplier", "wallet": "points", "factor_percent": 200, "of": ["dollar"]},
        },
        {
            "code": "welcome",
            "name": "50 points for the first order",
            "on": "purchase.completed",
            "when": "member.purchases_before == 0",
            "effect": {"kind": "fixed", "wallet": "points", "points": 50},
        },
        {
            "code": "status",
            "name": "1 status point for each dollar of an order",
            "on": "purchase.completed",
            "effect": {"kind": "per_amount", "wallet": "status", "points": 1, "per_minor": 100},
        },
    ],
    "tiers": {
        "code": "club",
        "wallet": "status",
        "levels": [
            {"code": "member", "name": "Member", "threshold": 0},
            {"code": "silver", "name": "Silver", "threshold": 100, "benefits": ["Free shipping"]},
            {"code": "gold", "name": "Gold", "threshold": 300, "benefits": ["Free shipping", "Pre-release listening"]},
            {
                "code": "platinum",
                "name": "Platinum",
                "threshold": 1000,
                "benefits": ["Free shipping", "Pre-release listening", "A personal adviser"],
            },
        ],
        "review": {"kind": "yearly", "month": 7, "day": 1, "downgrade": "step"},
    },
    "redemption": {"wallet": "points", "minor_per_point": 1, "minimum_points": 100, "step_points": 100},
}
