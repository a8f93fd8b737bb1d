"""Whole points divided exactly: over the lines of an order, and over the pieces of a line that go back."""

from collections.abc import Sequence
from typing import Literal, assert_never

Rounding = Literal["down", "half_up", "up"]


def divided(number: int, divisor: int, rounding: Rounding) -> int:
    """`number / divisor` as a whole number; both are not negative, the divisor is not 0."""
    match rounding:
        case "down":
            return number // divisor
        case "half_up":
            return (2 * number + divisor) // (2 * divisor)
        case "up":
            return -(-number // divisor)
        case _:
            assert_never(rounding)


def spread(total: int, weights: Sequence[int]) -> list[int]:
    """Split `total` in proportion to `weights`, whole and exact, by largest remainder; a tie goes to the earlier.

    Method of Hamilton: https://en.wikipedia.org/wiki/Quota_method. No weight is negative, nor is `total`, and some
    weight is above 0 unless `total` is 0. A part is never more than its exact share rounded up.
    """
    whole = sum(weights)
    if total == 0:
        return [0] * len(weights)
    if len(weights) == 1:
        return [total]
    parts = [total * weight // whole for weight in weights]
    left = total - sum(parts)
    if left:
        by_remainder = sorted(range(len(weights)), key=lambda at: (-(total * weights[at] % whole), at))
        for at in by_remainder[:left]:
            parts[at] += 1
    return parts


def refund_share(awarded: int, quantity: int, refunded: int, returning: int) -> int:
    """The points to take back when `returning` more of `quantity` pieces come back and `refunded` already did.

    What is taken back in all is the exact share of the pieces returned so far, rounded down; so all pieces take back
    all points, in however many refunds. More pieces than remain count as those that remain.
    """
    before = min(refunded, quantity)
    after = min(before + returning, quantity)
    return awarded * after // quantity - awarded * before // quantity
