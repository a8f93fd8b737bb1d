"""`/v1/programs`: a program is drafted, published as a version, and never changed again."""

from contextlib import suppress
from datetime import datetime
from typing import Annotated, Any, Final, TypeVar

import orjson
from fastapi import APIRouter, Body, Path, Response
from pydantic import BaseModel, ConfigDict, Field

from services.points.asking import (
    MAY_WAIT,
    Publisher,
    Reader,
    Reads,
    Writes,
    front_of,
    outcome_of,
    placed,
    points_router,
    tenant_now,
)
from services.points.programs.domain import version_at
from services.points.programs.publishing import draft
from services.points.programs.read_store import (
    VersionLine,
    drafts,
    find_draft,
    find_version,
    version_lines,
)
from services.points.programs.sample import SAMPLE_PROGRAM
from services.points.programs.store import ProgramRow
from shared.events.catalogue import Time
from shared.events.contacts import TENANT_SUBJECT
from shared.events.points import DraftProgram, ProgramDrafted, ProgramPublished, PublishProgram
from shared.http.asking import StillDeciding
from shared.http.paging import LIMIT_DEFAULT, Cursor, Keyset, Limit, Page
from shared.http.position import POSITION_HEADER, PositionToken
from shared.http.problems import Invalid, NotFound, Unavailable, problem_responses
from shared.log.port import LogUnavailable
from shared.runtime.rules import Refused
from shared.runtime.store import StoreUnavailable
from shared.service import Access

BY_PROGRAM: Final = Keyset("programs", (str,))
VERSION_MAX: Final = 2**31 - 1

ProgramName = Annotated[
    str, Path(pattern="^[a-z0-9][a-z0-9_-]{0,62}$", description="Small letters, digits, dashes; never changes.")
]
ProgramKnown = Annotated[str, Path(max_length=100)]
Document = Annotated[
    dict[str, Any], Body(examples=[SAMPLE_PROGRAM], description="The program document, as docs/programs.md has it.")
]


class Publishing(BaseModel):
    """From when on the draft rules."""

    model_config = ConfigDict(extra="forbid")

    effective_from: Time | None = Field(
        None, description="From which event time on; it may lie in the past. Null: from the moment it is decided."
    )
    by: str | None = Field(None, min_length=1, max_length=500, description="Who publishes; null: the API key.")


class DraftAnswer(BaseModel):
    """A draft that was kept. Nothing earns by it until it is published."""

    program: str
    document_hash: str = Field(description="SHA-256 of the document as it is kept.")
    by: str


class VersionAnswer(BaseModel):
    """A published version."""

    program: str
    version: int
    effective_from: datetime
    document_hash: str
    by: str


class VersionInList(VersionAnswer):
    """A published version, and whether it rules what happens now."""

    published_at: datetime
    in_force: bool


class VersionWhole(VersionAnswer):
    """A published version with its document."""

    published_at: datetime
    document: dict[str, Any]


class ProgramInList(BaseModel):
    """A program in short."""

    program: str
    name: str = Field(description="As the draft calls it.")
    draft_hash: str
    drafted_at: datetime
    drafted_by: str
    versions: int = Field(description="How many were published.")
    in_force: int | None = Field(description="The version that rules what happens now.")


class ProgramAnswer(ProgramInList):
    """A program: its draft and its versions, the latest first."""

    draft: dict[str, Any]
    published: list[VersionInList]


def routes(access: Access) -> APIRouter:
    """The routes of programs."""
    api = points_router("programs")
    _writes(api, access)
    _outcomes(api, access)
    _reads(api, access)
    return api


def _writes(api: APIRouter, access: Access) -> None:
    @api.put("/v1/programs/{program}/draft", response_model=DraftAnswer, responses=MAY_WAIT)
    async def save_draft(
        program: ProgramName, document: Document, caller: Publisher, asking: Writes, response: Response
    ) -> DraftAnswer | Response:
        """Check a program document and keep it as the draft. Every problem found is named in `problems`."""
        asked = DraftProgram(program=program, document=document, by=caller.credential_id)
        _check(asked)
        try:
            answer = await asking.decided(
                access, caller.tenant, TENANT_SUBJECT, asked, f"/v1/programs/{program}/drafts"
            )
        except StillDeciding as still:
            return asking.accepted(still)
        placed(response, answer)
        return _drafted(answer.data)

    @api.post("/v1/programs/{program}/publish", response_model=VersionAnswer, responses=MAY_WAIT)
    async def publish(
        program: ProgramName, publishing: Publishing, caller: Publisher, asking: Writes, response: Response
    ) -> VersionAnswer | Response:
        """Publish the draft as the next version. What was decided before stays as it is.

        The position answered covers the news of it on every partition: what is recorded after it earns by it.
        """
        asked = PublishProgram(
            program=program, effective_from=publishing.effective_from, by=publishing.by or caller.credential_id
        )
        try:
            answer = await asking.decided(
                access, caller.tenant, TENANT_SUBJECT, asked, f"/v1/programs/{program}/publications"
            )
        except StillDeciding as still:
            return asking.accepted(still)
        await _told_everywhere(access, asking.reading.wait_seconds, response)
        return _published(answer.data)


def _outcomes(api: APIRouter, access: Access) -> None:
    @api.get("/v1/programs/{program}/drafts/{key:path}", responses=problem_responses(409))
    async def draft_outcome(
        program: ProgramKnown, key: str, caller: Publisher, reading: Reads, response: Response
    ) -> DraftAnswer:
        """What became of a draft, by the Idempotency-Key it was sent with."""
        answer = await outcome_of(
            access, caller.tenant, key, reading, request="program.draft.v1", outcome="program.drafted.v1"
        )
        placed(response, answer)
        return _of_program(program, _drafted(answer.data))

    @api.get("/v1/programs/{program}/publications/{key:path}", responses=problem_responses(409))
    async def publication_outcome(
        program: ProgramKnown, key: str, caller: Publisher, reading: Reads, response: Response
    ) -> VersionAnswer:
        """What became of a publication, by the Idempotency-Key it was sent with."""
        answer = await outcome_of(
            access, caller.tenant, key, reading, request="program.publish.v1", outcome="program.published.v1"
        )
        await _told_everywhere(access, reading.wait_seconds, response)
        return _of_program(program, _published(answer.data))


def _reads(api: APIRouter, access: Access) -> None:
    @api.get("/v1/programs")
    async def programs(
        caller: Reader, reading: Reads, limit: Limit = LIMIT_DEFAULT, cursor: Cursor = None
    ) -> Page[ProgramInList]:
        """All programs by code."""
        (behind,) = BY_PROGRAM.decode(cursor) if cursor else ("",)
        async with reading.state(access, caller.tenant) as connection:
            at = await tenant_now(access, connection, caller.tenant)
            rows = await drafts(connection, caller.tenant, behind, limit + 1)
            lines = await version_lines(connection, caller.tenant)
        in_force = version_at(lines, at)
        shown = [ProgramInList(**_short(row, in_force)) for row in rows]
        return BY_PROGRAM.page(shown, [(row.program,) for row in rows], limit)

    @api.get("/v1/programs/{program}")
    async def program(program: ProgramKnown, caller: Reader, reading: Reads) -> ProgramAnswer:
        """A program: its draft and its versions, the latest first."""
        async with reading.state(access, caller.tenant) as connection:
            at = await tenant_now(access, connection, caller.tenant)
            row = await find_draft(connection, caller.tenant, program)
            lines = await version_lines(connection, caller.tenant)
        if row is None:
            raise NotFound("There is no program with this code; GET /v1/programs lists them.")
        in_force = version_at(lines, at)
        published = [_line(line, in_force) for line in reversed(lines) if line.program == program]
        return ProgramAnswer(**_short(row, in_force), draft=orjson.loads(row.draft), published=published)

    @api.get("/v1/programs/{program}/versions/{version}")
    async def version(
        program: ProgramKnown, version: Annotated[int, Path(ge=1, le=VERSION_MAX)], caller: Reader, reading: Reads
    ) -> VersionWhole:
        """One version of a program, as it was published."""
        async with reading.state(access, caller.tenant) as connection:
            row = await find_version(connection, caller.tenant, program, version)
        if row is None:
            raise NotFound("There is no such version; GET /v1/programs/{program} lists them.")
        return VersionWhole(
            program=row.program,
            version=row.version,
            effective_from=row.effective_from,
            document_hash=row.document_hash,
            by=row.published_by,
            published_at=row.published_at,
            document=orjson.loads(row.document),
        )


def _check(asked: DraftProgram) -> None:
    """Refuse a document as malformed before it is in the log; the worker asks the same again."""
    try:
        draft(asked)
    except Refused as refused:
        invalid = Invalid(f"{refused.detail[:1].upper()}{refused.detail[1:]}.", **refused.facts)
        invalid.code = refused.reason
        raise invalid from None


async def _told_everywhere(access: Access, wait_seconds: float, response: Response) -> None:
    """Set the position that includes the letters, and give every partition a chance to have read its own.

    The outcome was answered after its relay had all its letters acknowledged, so the ends of now are beyond them.
    """
    front = front_of(access)
    try:
        ends = await front.stream_ends()
    except LogUnavailable as error:
        raise Unavailable("It is done, but the log cannot be reached: repeat it with the same key.") from error
    response.headers[POSITION_HEADER] = PositionToken({}, ends).encode()
    with suppress(StoreUnavailable):
        await front.wait(inbox={}, events=ends, wait_seconds=wait_seconds)


Named = TypeVar("Named", DraftAnswer, VersionAnswer)


def _of_program(program: str, answer: Named) -> Named:
    if answer.program != program:
        raise NotFound("This key belongs to another program's request: ask at that program's address.")
    return answer


def _drafted(outcome: dict[str, Any]) -> DraftAnswer:
    fact = ProgramDrafted.model_validate(outcome)
    return DraftAnswer(program=fact.program, document_hash=fact.document_hash, by=fact.by)


def _published(outcome: dict[str, Any]) -> VersionAnswer:
    fact = ProgramPublished.model_validate(outcome)
    return VersionAnswer(
        program=fact.program,
        version=fact.version,
        effective_from=fact.effective_from,
        document_hash=fact.document_hash,
        by=fact.by,
    )


def _line(line: VersionLine, in_force: VersionLine | None) -> VersionInList:
    return VersionInList(
        program=line.program,
        version=line.version,
        effective_from=line.effective_from,
        document_hash=line.document_hash,
        by=line.published_by,
        published_at=line.published_at,
        in_force=line == in_force,
    )


def _short(row: ProgramRow, in_force: VersionLine | None) -> dict[str, Any]:
    return {
        "program": row.program,
        "name": orjson.loads(row.draft)["name"],
        "draft_hash": row.draft_hash,
        "drafted_at": row.drafted_at,
        "drafted_by": row.drafted_by,
        "versions": row.versions,
        "in_force": in_force.version if in_force is not None and in_force.program == row.program else None,
    }
