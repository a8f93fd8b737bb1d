"""Messages about fields: in our words, complete, and never with what was sent."""

from typing import Annotated, Any, Literal, get_args

import pytest
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic_core.core_schema import ErrorType

from shared.http.field_messages import _MESSAGES, field_message


class Parcel(BaseModel):
    model_config = ConfigDict(extra="forbid")

    grams: Annotated[int, Field(strict=True, ge=1, le=30_000)] = 1
    at: AwareDatetime | None = None
    size: Literal["s", "l"] = "s"
    name: Annotated[str, Field(min_length=2, max_length=4)] = "abc"
    tags: Annotated[list[str], Field(min_length=1, max_length=1)] = ["a"]
    share: Annotated[int, Field(gt=0, lt=100)] = 1
    to: Annotated[str, Field(default="x", validate_default=False)]

    @field_validator("to")
    @classmethod
    def _known(cls, to: str) -> str:
        if to == "nowhere":
            raise ValueError("name a place; this one is not known")
        return to


@pytest.mark.parametrize(
    ("sent", "message"),
    [
        ({"grams": "secret"}, "Send a whole number, without quotes and without a fraction."),
        ({"grams": 1.5}, "Send a whole number, without quotes and without a fraction."),
        ({"grams": 0}, "Send 1 or more."),
        ({"grams": 30_001}, "Send 30000 or less."),
        ({"at": "2026-01-31T12:00:00"}, "Send a time with a zone, as 2026-01-31T12:00:00Z."),
        ({"at": "secret"}, "Send a time with a zone, as 2026-01-31T12:00:00Z."),
        ({"size": "secret"}, "Send 's' or 'l'."),
        ({"name": "a"}, "Send at least 2 characters."),
        ({"name": "secret"}, "Send at most 4 characters."),
        ({"name": 3}, "Send text."),
        ({"tags": "secret"}, "Send a list."),
        ({"tags": ["a", "b"]}, "Send at most 1."),
        ({"tags": []}, "Send at least 1."),
        ({"share": 0}, "Send more than 0."),
        ({"share": 100}, "Send less than 100."),
        ({"gram": 1}, "There is no such field: check its spelling, or leave it out."),
        ({"to": "nowhere"}, "name a place; this one is not known"),
    ],
)
def test_a_wrong_field_is_told_what_to_send(sent: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Parcel.model_validate(sent)
    (error,) = caught.value.errors()
    assert field_message(error) == message


def test_our_messages_are_of_errors_that_pydantic_has() -> None:
    assert set(_MESSAGES) <= set(get_args(ErrorType))
