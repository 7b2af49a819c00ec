"""What is written for a row: columns of a table, or a line of OpenAI's batch output file.

A row has either an answer or an error; both are those of the HTTP API.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa

from lladav.structured.compiling import StructureKind
from serve.api.planning.planner import PreparedRequest
from serve.errors import ApiError
from serve.offline.row_requests import CHAT, TEXT, RowRequest
from serve.offline.settings import OutputFormat

ROW, FAILED, TOKENS = "row", "failed", "tokens"
COUNTS = (pa.field(ROW, pa.int64()), pa.field(FAILED, pa.bool_()), pa.field(TOKENS, pa.int64()))
"""Columns that every table of results has: number of the row, whether it has an error, tokens of its
answer."""
LINE = pa.field("line", pa.string())
ANSWER = (
    pa.field("answer", pa.string()),
    pa.field("finish_reason", pa.string()),
    pa.field("prompt_tokens", pa.int64()),
    pa.field("completion_tokens", pa.int64()),
    pa.field("warnings", pa.list_(pa.string())),
    pa.field("error", pa.string()),
    pa.field("error_code", pa.string()),
)
"""Columns of an answer in a table."""


@dataclass(frozen=True)
class RowResult:
    """A row with its answer."""

    request: RowRequest
    answer: Mapping[str, Any] | ApiError
    """The body of the response, or the error."""

    @property
    def tokens(self) -> int:
        """Tokens of the answer; 0 for an error."""
        usage = {} if isinstance(self.answer, ApiError) else self.answer["usage"]
        return usage.get("completion_tokens", usage.get("output_tokens", 0))


class ResultForm(Protocol):
    """A form of the output."""

    def check(self, request: RowRequest, prepared: PreparedRequest) -> None:
        """Raise ``ApiError`` for a request whose answer the form cannot hold."""
        ...

    def table(self, results: Sequence[RowResult]) -> pa.Table:
        """Results with the columns of ``COUNTS``."""
        ...

    def output(self, table: pa.Table) -> pa.Table:
        """The columns that are written."""
        ...


class TableForm:
    """Columns: the number and id of a row, its columns to keep, and those of ``ANSWER``."""

    def __init__(self, kept: pa.Schema) -> None:
        """``kept`` are the columns of the input to keep."""
        self._written = pa.schema([COUNTS[0], pa.field("id", pa.string()), *kept, *ANSWER])
        self._schema = pa.schema([*self._written, *COUNTS[1:]])
        self._kept = kept

    def check(self, request: RowRequest, prepared: PreparedRequest) -> None:
        structure = prepared.structure
        wanted = {
            "n": prepared.choices > 1,
            "logprobs": prepared.logprobs,
            "tools": structure is not None and structure.spec.kind is StructureKind.tool_calls,
            "url": request.endpoint not in (CHAT, TEXT),
        }
        if refused := [name for name, given in wanted.items() if given]:
            message = f"{refused[0]}: a table has no place for it; leave it out, or set format=openai"
            raise ApiError(400, message, param=refused[0])

    def table(self, results: Sequence[RowResult]) -> pa.Table:
        return pa.Table.from_pylist([self._columns(each) for each in results], self._schema)

    def output(self, table: pa.Table) -> pa.Table:
        return table.select(self._written.names)

    def _columns(self, result: RowResult) -> dict[str, Any]:
        request, answer = result.request, result.answer
        kept = {
            name: _as_type(request.kept.get(name), self._kept.field(name).type) for name in self._kept.names
        }
        columns = {**kept, ROW: request.row, "id": request.id, TOKENS: result.tokens}
        if isinstance(answer, ApiError):
            return {**columns, FAILED: True, "error": answer.message, "error_code": answer.code}
        [choice] = answer["choices"]
        text = choice["message"]["content"] if "message" in choice else choice["text"]
        counts = {name: answer["usage"][name] for name in ("prompt_tokens", "completion_tokens")}
        rest = {"finish_reason": choice["finish_reason"], "warnings": answer.get("warnings", [])}
        return {**columns, FAILED: False, "answer": text, **counts, **rest}


class OpenAIForm:
    """Lines of OpenAI's batch output file; a failed request has the response that the API gives to it."""

    def check(self, request: RowRequest, prepared: PreparedRequest) -> None:
        """Every answer has a place."""

    def table(self, results: Sequence[RowResult]) -> pa.Table:
        columns = [
            {
                ROW: each.request.row,
                FAILED: isinstance(each.answer, ApiError),
                TOKENS: each.tokens,
                "line": _line(each),
            }
            for each in results
        ]
        return pa.Table.from_pylist(columns, pa.schema([*COUNTS, LINE]))

    def output(self, table: pa.Table) -> pa.Table:
        return table.select([LINE.name])


def form_of(output: OutputFormat, kept: pa.Schema) -> ResultForm:
    """The form of an output format."""
    return OpenAIForm() if output is OutputFormat.openai else TableForm(kept)


def lines_of(table: pa.Table) -> Iterator[str]:
    """The lines of a table for a JSON Lines file."""
    if table.column_names == [LINE.name]:
        return iter(table[LINE.name].to_pylist())
    return (json.dumps(row, ensure_ascii=False) for row in table.to_pylist())


def _line(result: RowResult) -> str:
    name, answer = f"batch_req_{result.request.row}", result.answer
    status, body = (answer.status, answer.body) if isinstance(answer, ApiError) else (200, answer)
    response = {"status_code": status, "request_id": body.get("id", name), "body": body}
    line = {"id": name, "custom_id": result.request.id, "response": response, "error": None}
    return json.dumps(line, ensure_ascii=False)


def _as_type(value: Any, kind: pa.DataType) -> Any:
    """A value of a column to keep; JSON text where the column is text and the value is not."""
    is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    return json.dumps(value, ensure_ascii=False) if is_text and not isinstance(value, str | None) else value
