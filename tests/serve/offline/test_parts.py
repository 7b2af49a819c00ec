"""A part ends by rows or by time; a row that comes twice is written once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from serve.errors import ApiError
from serve.offline.output import OutputFolder, RowCounts
from serve.offline.parts import PartWriter
from serve.offline.results import OpenAIForm, ResultForm, RowResult, TableForm
from serve.offline.row_requests import RowRequest
from serve.offline.settings import OutputFormat
from tests.serve.offline.clocks import Clock
from tests.serve.offline.settings import batch_settings

ANSWER: dict[str, Any] = {
    "id": "chatcmpl-1",
    "choices": [{"message": {"content": "é\n"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 4, "completion_tokens": 2},
}
FORMS: dict[OutputFormat, ResultForm] = {
    OutputFormat.parquet: TableForm(pa.schema([("label", pa.int64())])),
    OutputFormat.jsonl: TableForm(pa.schema([("label", pa.string())])),
    OutputFormat.openai: OpenAIForm(),
}


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[OutputFolder]:
    made = OutputFolder(str(tmp_path))
    with made.claimed():
        yield made


def table(form: ResultForm, *rows: int, failed: bool = False) -> pa.Table:
    answer = ApiError(400, "bad", code="worse") if failed else ANSWER
    requests = [RowRequest(row, f"id {row}", kept={"label": row}) for row in rows]
    return form.table([RowResult(request, answer) for request in requests])


def writer_of(folder: OutputFolder, output: OutputFormat = OutputFormat.jsonl, **given: Any) -> PartWriter:
    done = np.zeros(100, dtype=bool)
    clock = given.pop("clock", Clock())
    return PartWriter(folder, FORMS[output], batch_settings(**given), output, done, clock)


def parts(folder: OutputFolder) -> list[list[int]]:
    """The rows of each part."""
    files = sorted(Path(str(folder.path)).glob("part-*"))
    return [[json.loads(line)["row"] for line in file.read_text().splitlines()] for file in files]


def test_a_part_ends_when_it_has_its_rows(folder: OutputFolder) -> None:
    writer, form = writer_of(folder, part_rows=3), FORMS[OutputFormat.jsonl]
    assert writer.add(table(form, 5, 6)) == RowCounts(2, 0, 4)
    assert parts(folder) == []
    writer.add(table(form, 1, 2))
    writer.add(table(form, 9, failed=True))
    assert parts(folder) == [[5, 6, 1, 2]]
    writer.commit()
    writer.commit()
    assert parts(folder) == [[5, 6, 1, 2], [9]]
    assert OutputFolder(str(folder.path)).committed(100)[1] == RowCounts(5, 1, 8)


def test_a_part_ends_when_its_time_is_over(folder: OutputFolder) -> None:
    clock = Clock()
    writer, form = writer_of(folder, part_seconds=60.0, clock=clock), FORMS[OutputFormat.jsonl]
    clock.now = 1000.0
    writer.add(table(form, 1))
    clock.now = 1059.0
    writer.add(table(form, 2))
    assert parts(folder) == []
    clock.now = 1060.0
    writer.add(table(form, 3))
    assert parts(folder) == [[1, 2, 3]]


def test_a_row_that_comes_again_is_not_written_again(folder: OutputFolder) -> None:
    writer, form = writer_of(folder, part_rows=2), FORMS[OutputFormat.jsonl]
    writer.add(table(form, 1, 2))
    assert writer.add(table(form, 2, 3)) == RowCounts(1, 0, 2)
    assert writer.add(table(form, 1, 2, 3)) == RowCounts()
    writer.commit()
    assert parts(folder) == [[1, 2], [3]]


@pytest.mark.parametrize("output", OutputFormat)
def test_every_format_holds_answers_and_errors(folder: OutputFolder, output: OutputFormat) -> None:
    writer, form = writer_of(folder, output), FORMS[output]
    writer.add(table(form, 3))
    writer.add(table(form, 4, failed=True))
    writer.commit()
    [file] = Path(str(folder.path)).glob("part-*")
    if output is OutputFormat.openai:
        good, bad = map(json.loads, file.read_text().splitlines())
        assert good["response"] == {"status_code": 200, "request_id": "chatcmpl-1", "body": ANSWER}
        assert (good["custom_id"], good["id"], good["error"]) == ("id 3", "batch_req_3", None)
        assert (bad["response"]["status_code"], bad["response"]["body"]["error"]["code"]) == (400, "worse")
        return
    rows = pq.read_table(file).to_pylist() if output is OutputFormat.parquet else None
    good, bad = rows or [json.loads(line) for line in file.read_text().splitlines()]
    kept = 3 if output is OutputFormat.parquet else "3"
    assert (good["id"], good["label"], good["answer"], good["error"]) == ("id 3", kept, "é\n", None)
    assert (good["prompt_tokens"], good["completion_tokens"], good["finish_reason"]) == (4, 2, "stop")
    assert (bad["row"], bad["answer"], bad["error"], bad["error_code"]) == (4, None, "bad", "worse")
