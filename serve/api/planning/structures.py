"""The structure that a request asks for: a JSON schema or object, an expression, a list of texts, or calls.

Several fields ask for one: OpenAI's ``response_format`` and ``tools``, and vLLM's ``structured_outputs`` and
``guided_*``. Compiling takes long, so it runs in a thread, after everything that can be refused at once.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import unquote

from lladav.decoding.params import REPETITION
from lladav.inputs.chat import ChatTokenizer
from lladav.structured.compiling import Structure, StructureKind, StructureSpec, compile_structure
from lladav.structured.errors import SchemaError
from serve.api.planning.tools import requested_tools, requires_calls
from serve.api.schemas.completion_requests import DecodingBody, ObjectFormat, SchemaFormat
from serve.api.transport.body_reading import check_complexity, parse_json
from serve.concurrency import COMPILING
from serve.errors import ApiError
from serve.settings import DecodingSettings

TOOLS = "tools"
TOO_LONG = "schema_too_long"
"""Code of the error for a structure that does not fit."""
OF_OPENAI = "response_format.json_schema.schema"
KINDS = {
    "json": StructureKind.json_schema,
    "regex": StructureKind.regex,
    "choice": StructureKind.choice,
    "json_object": StructureKind.json_object,
}
"""Kinds by the name of their field in ``structured_outputs``."""
GRAMMARS = ("grammar", "structural_tag")
"""Fields that are refused."""
EARLIER = ("guided_json", "guided_regex", "guided_choice", "guided_grammar", "structural_tag")
"""vLLM's fields before ``structured_outputs``."""
WITHOUT_EFFECT = ("stop", "ignore_eos", "allow_eos", *REPETITION)
"""Fields that say how an answer ends or repeats itself: the structure decides both."""
OF_JSON = (StructureKind.json_schema, StructureKind.json_object)
"""Kinds of an answer that may call tools instead: it never begins like a call."""
WITH_PROPERTIES = (StructureKind.json_schema, StructureKind.tool_calls)
INDEX = re.compile(r"\.(\d+)(?=\.|$)")


@dataclass(frozen=True)
class RequestedStructure:
    """The structure of an answer as a request describes it."""

    field: str
    """Path of the field, as in ``structured_outputs.json``."""
    kind: StructureKind
    value: Any
    """A schema or its text, an expression, a list of texts, or the source of calls."""
    optional: bool = False
    """Whether the answer may be text without a structure instead."""
    answer: RequestedStructure | None = None
    """The structure of an answer that makes no calls, if it may be one."""

    @property
    def top_field(self) -> str:
        """The field of the body."""
        return self.field.partition(".")[0]


@dataclass(frozen=True)
class PlannedStructure:
    """A compiled structure, and what a replica needs to compile it again."""

    spec: StructureSpec
    compiled: Structure
    optional: bool = False
    """Whether the answer may be text without a structure instead."""
    calls_only: bool = False
    """Whether all answers that have the structure are calls of tools."""


def requested_structure(body: DecodingBody) -> RequestedStructure | None:
    """The structure that a request asks for. Raises ``ApiError`` for two of them, and for a grammar."""
    given = [*_of_openai(body), *_of_vllm(body)]
    if len(given) > 1:
        raise _excluded(given[0], given[1])
    answer, calls = (given[0] if given else None), next(_of_tools(body), None)
    if calls is None or answer is None:
        return calls or answer
    if answer.kind not in OF_JSON:
        raise _excluded(answer, calls)
    if not calls.optional:
        return calls
    schema = {"type": "object"} if answer.kind is StructureKind.json_object else json.loads(_source(answer))
    return replace(calls, value={**calls.value, "answer": schema}, optional=False, answer=answer)


def _excluded(first: RequestedStructure, second: RequestedStructure) -> ApiError:
    message = f"{first.field} and {second.field} exclude each other; keep one of them"
    return ApiError(400, message, param=second.field)


def _of_openai(body: DecodingBody) -> Iterator[RequestedStructure]:
    match body.response_format:
        case SchemaFormat(json_schema=schema):
            yield RequestedStructure(OF_OPENAI, StructureKind.json_schema, schema.schema_)
        case ObjectFormat():
            yield RequestedStructure("response_format", StructureKind.json_object, None)


def _of_tools(body: DecodingBody) -> Iterator[RequestedStructure]:
    if (tools := requested_tools(body)) is not None:
        functions = [
            {"index": index, "name": tool.function.name, "parameters": tool.function.parameters}
            for index, tool in tools.by_index.items()
        ]
        source = {"functions": functions, "parallel": tools.parallel}
        yield RequestedStructure(TOOLS, StructureKind.tool_calls, source, optional=not tools.required)


def _of_vllm(body: DecodingBody) -> Iterator[RequestedStructure]:
    for field, value in _vllm_fields(body).items():
        name = field.removeprefix("structured_outputs.").removeprefix("guided_")
        if name in GRAMMARS:
            message = f"{field}: grammars are not supported; use json, regex or choice"
            raise ApiError(400, message, code="unsupported_grammar", param=field)
        yield RequestedStructure(field, KINDS[name], value)


def _vllm_fields(body: DecodingBody) -> dict[str, Any]:
    """The fields with a value, by their paths."""
    earlier = {name: getattr(body, name) for name in EARLIER}
    inner = {} if body.structured_outputs is None else body.structured_outputs.model_dump(by_alias=True)
    given = {
        f"structured_outputs.{name}": value for name, value in inner.items() if value not in (None, False)
    }
    if inner and not given:
        message = f"structured_outputs: describes no structure; give it {', '.join(KINDS)}"
        raise ApiError(400, message, param="structured_outputs")
    return given | {name: value for name, value in earlier.items() if value is not None}


class StructurePlanner:
    """Compiles the structures of requests."""

    def __init__(self, settings: DecodingSettings, tokenizer: ChatTokenizer) -> None:
        self._settings, self._tokenizer = settings, tokenizer

    def compile(
        self, requested: RequestedStructure, body: DecodingBody, max_tokens: int
    ) -> PlannedStructure | None:
        """The structure of an answer of at most ``max_tokens`` tokens; raises ``ApiError``.

        None if the structure is optional and does not fit. Takes up to seconds the first time.
        """
        if requested.answer is not None:  # its errors name its own field
            self.compile(requested.answer, body, max_tokens)
        spec = self._spec(requested, body)
        try:
            with COMPILING:
                compiled = compile_structure(spec, self._tokenizer, max_tokens)
        except SchemaError as error:
            if requested.optional and error.code == TOO_LONG:
                return None
            raise _api_error(error, requested.field) from None
        calls_only = requested.kind is StructureKind.tool_calls and requested.answer is None
        return PlannedStructure(spec, compiled, requested.optional, calls_only)

    def _spec(self, requested: RequestedStructure, body: DecodingBody) -> StructureSpec:
        usual, value_tokens = self._settings.all_properties, self._settings.value_tokens
        every = usual if body.all_properties is None else body.all_properties
        return StructureSpec(requested.kind, _source(requested), every, value_tokens)


def _source(requested: RequestedStructure) -> str:
    """The source of a ``StructureSpec``."""
    field, value = requested.field, requested.value
    if requested.kind is StructureKind.regex:
        return value
    if requested.kind is StructureKind.json_object:
        return ""
    if isinstance(value, str):
        check_complexity(text := value.encode(), field)
        value = parse_json(text, field)
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except ValueError:
        message = f"{field}: is not plain JSON: it has infinite numbers; remove them"
        raise ApiError(400, message, code="invalid_schema", param=field) from None


def _api_error(error: SchemaError, field: str) -> ApiError:
    """The error for a structure that cannot be guaranteed; its path continues the path of the field."""
    place = field + _dotted(error.path)
    param = "max_tokens" if error.code == TOO_LONG else place
    return ApiError(400, f"{place} {error.reason}", code=error.code, param=param)


def _dotted(pointer: str) -> str:
    """A JSON pointer as a path, as in ``.properties.size.anyOf[0]``; one into another document as it is."""
    if not pointer.startswith("#"):
        return pointer and f" {pointer}"
    path = unquote(pointer[1:]).replace("/", ".").replace("~1", "/").replace("~0", "~")
    return INDEX.sub(r"[\1]", path)


def structure_warnings(planned: PlannedStructure | None, body: DecodingBody) -> list[str]:
    """A line for each keyword and each field of a request that has no effect."""
    warnings = []
    if planned is not None:
        fields = [] if planned.optional else [name for name in WITHOUT_EFFECT if _has_effect(body, name)]
        ignored = [f"{name} has no effect on an answer that has a structure" for name in fields]
        warnings = [*planned.compiled.warnings, *ignored]
    if requires_calls(body) and body.response_format is not None:
        warnings.append("response_format has no effect: the answer calls tools")
    if body.all_properties and (planned is None or planned.spec.kind not in WITH_PROPERTIES):
        warnings.append("all_properties has no effect without a JSON schema")
    return warnings


def _has_effect(body: DecodingBody, name: str) -> bool:
    """Whether a field would change an answer without a structure."""
    return bool(getattr(body, name)) and (name, body.repetition_penalty) != ("repetition_penalty", 1)
