"""The OpenAPI document with every problem that an operation may answer, so that clients can be generated from it."""

from typing import Any, Final

from shared.http.position import AFTER_HEADER
from shared.http.problems import MEANINGS, MEDIA_TYPE, ProblemDocument

REFERENCE: Final = {"$ref": "#/components/schemas/Problem"}
_METHODS: Final = frozenset({"get", "put", "post", "delete", "patch"})
_REPLACED: Final = ("HTTPValidationError", "ValidationError", "ProblemDocument")


def document_problems(document: dict[str, Any]) -> dict[str, Any]:
    """Adds the problem schema and each operation's problems, in place of the framework's own error schemas."""
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    for name in _REPLACED:
        schemas.pop(name, None)
    schema = ProblemDocument.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas.update(schema.pop("$defs", {}))
    schemas["Problem"] = schema
    for path, operations in document.get("paths", {}).items():
        for method, operation in operations.items():
            if method in _METHODS:
                _document(path, operation)
    return document


def _document(path: str, operation: dict[str, Any]) -> None:
    responses = operation.setdefault("responses", {})
    declared = {int(status) for status in responses if status.isdigit() and int(status) >= 400}
    for status in sorted(declared | _expected(path, operation)):
        responses[str(status)] = {"description": MEANINGS[status], "content": {MEDIA_TYPE: {"schema": REFERENCE}}}


def _takes_input(operation: dict[str, Any]) -> bool:
    return bool(operation.get("parameters") or "requestBody" in operation)


def _expected(path: str, operation: dict[str, Any]) -> set[int]:
    expected = {500}
    if "security" in operation:
        expected |= {401, 403, 429, 503}
    if _takes_input(operation):
        expected.add(422)
    if "requestBody" in operation:
        expected |= {413, 415}
    if any(parameter["name"] == AFTER_HEADER.lower() for parameter in operation.get("parameters", ())):
        expected.add(400)
    if "{" in path:
        expected.add(404)
    return expected
