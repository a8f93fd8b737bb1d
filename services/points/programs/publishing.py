"""Programs are drafted, then published as versions that are never changed again. Pure.

It is decided on the tenant's partition. A version rules events from its `effective_from` on, by the events' own time.
That may lie in the past, so that history can be imported under it; what was decided already stays as it is.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

import orjson

from services.points.programs.checks import ProgramInvalid, read_document
from services.points.programs.document import document_hash, document_text
from services.points.programs.store import ProgramRow
from shared.events.points import DraftProgram, ProgramDrafted, ProgramPublished, PublishProgram
from shared.runtime.rules import Refused

DOCUMENT_BYTES_MAX: Final = 200_000
"""A version travels twice to the tenant's partition, as a fact and as a letter, with room to spare."""


def text_of(document: dict[str, Any]) -> str:
    """The document of an event as one JSON text, as it is stored and compiled from."""
    return orjson.dumps(document, option=orjson.OPT_SORT_KEYS).decode()


def draft(asked: DraftProgram) -> ProgramDrafted:
    """Check a document and keep it. Raises Refused with every problem found."""
    try:
        document = read_document(asked.document)
    except ProgramInvalid as invalid:
        problems = [problem._asdict() for problem in invalid.problems]
        raise Refused(
            "program-invalid", f"mend the document and send it again: {invalid}"[:500], problems=problems
        ) from None
    if len(document_text(document).encode()) > DOCUMENT_BYTES_MAX:
        raise Refused("program-too-large", f"a program has at most {DOCUMENT_BYTES_MAX} bytes; leave out unused rules")
    return ProgramDrafted(
        program=asked.program,
        document=document.model_dump(mode="json"),
        document_hash=document_hash(document),
        by=asked.by,
    )


def publish(programs: Sequence[ProgramRow], asked: PublishProgram, now: datetime) -> ProgramPublished:
    """Make the draft the program's next version. Raises Refused."""
    found = next((program for program in programs if program.program == asked.program), None)
    if found is None:
        raise Refused("no-draft", f"there is no draft of program {asked.program!r}; save one first")
    other = next((each.program for each in programs if each.versions and each.program != asked.program), None)
    if other is not None:
        raise Refused(
            "another-program",
            f"program {other!r} is published; publish the next version under that code",
            program=other,
        )
    return ProgramPublished(
        program=asked.program,
        version=found.versions + 1,
        effective_from=asked.effective_from or now,
        document=orjson.loads(found.draft),
        document_hash=found.draft_hash,
        by=asked.by,
    )
