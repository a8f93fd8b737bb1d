"""What can be wrong with a delivery: one exception, a stable code each, and a detail that says what to do."""

from enum import StrEnum
from typing import Final


class Code(StrEnum):
    """Stable ends of a problem's `type`. All are 422 but `body-too-large`, which is 413."""

    MALFORMED_JSON = "malformed-json"
    NAME_REPEATED = "name-repeated"
    BODY_TOO_LARGE = "body-too-large"
    TOO_MANY_EVENTS = "too-many-events"
    TOO_DEEP = "too-deep"
    TEXT_NOT_STORABLE = "text-not-storable"
    TEXT_TOO_LONG = "text-too-long"
    ATTRIBUTE_MISSING = "attribute-missing"
    ATTRIBUTE_REPEATED = "attribute-repeated"
    ATTRIBUTE_MALFORMED = "attribute-malformed"
    VERSION_UNSUPPORTED = "version-unsupported"
    CONTENT_TYPE_UNSUPPORTED = "content-type-unsupported"
    TYPE_UNKNOWN = "type-unknown"
    TIME_MALFORMED = "time-malformed"
    TIME_WITHOUT_ZONE = "time-without-zone"
    TIME_IN_FUTURE = "time-in-future"
    TIME_TOO_OLD = "time-too-old"
    FIELD_MISSING = "field-missing"
    FIELD_MALFORMED = "field-malformed"
    NOT_A_WHOLE_NUMBER = "not-a-whole-number"
    NUMBER_TOO_SMALL = "number-too-small"
    NUMBER_TOO_LARGE = "number-too-large"
    CURRENCY_UNKNOWN = "currency-unknown"
    NO_LINES = "no-lines"
    TOO_MANY_LINES = "too-many-lines"
    LINE_REPEATED = "line-repeated"
    SUM_DIFFERS = "sum-differs"
    CUSTOMER_MISSING = "customer-missing"
    EMAIL_MALFORMED = "email-malformed"
    PHONE_MALFORMED = "phone-malformed"


PATH_PART_MAX: Final = 100


class DeliveryProblem(ValueError):
    """A delivery cannot be accepted.

    `at` is the dotted path of what is wrong ("data.lines.0.sku"; empty: the whole). Neither it nor `detail` repeats a
    value that was sent: it may be personal.
    """

    def __init__(self, code: Code, detail: str, at: str = "") -> None:
        super().__init__(f"{code}: {detail}")
        self.code, self.detail, self.at = code, detail, at

    def under(self, part: object) -> "DeliveryProblem":
        """The same problem, seen from one level up."""
        shown = str(part).encode("utf-8", "replace").decode().replace("\0", "?")[:PATH_PART_MAX]
        self.at = f"{shown}.{self.at}" if self.at else shown
        return self
