"""The byte ranges of records in a JSON list or in JSON lines are found, whatever the records hold."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.sources import json_spans
from data.sources.json_spans import line_spans, list_spans
from lladav.errors import UserError
from tests.memory import needs_peak_memory, run_program

TEXTS = st.text(st.sampled_from('ab"\\[]{},:é\n'), max_size=12)
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), TEXTS),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)
ELEMENTS = st.lists(st.dictionaries(TEXTS, VALUES, max_size=3) | st.lists(VALUES, max_size=3), max_size=6)


def spans_in(folder: Path, text: str | bytes, find=list_spans) -> list[bytes]:
    """The bytes of each span of a file with this content."""
    content = text.encode() if isinstance(text, str) else text
    file = folder / "records.json"
    file.write_bytes(content)
    return [content[begin:end] for begin, end in find(file)]


@given(ELEMENTS, st.booleans(), st.sampled_from([None, 1]), st.sampled_from([1, 7, 64, 1 << 20]))
def test_elements_of_a_list_are_found(
    tmp_path_factory: pytest.TempPathFactory,
    elements: list,
    ascii_only: bool,
    indent: int | None,
    window: int,
) -> None:
    text = json.dumps(elements, ensure_ascii=ascii_only, indent=indent)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_spans, "WINDOW", window)
        found = spans_in(tmp_path_factory.getbasetemp(), text)
    assert [json.loads(span) for span in found] == elements


def test_a_malformed_element_costs_no_other(tmp_path: Path) -> None:
    found = spans_in(tmp_path, '[{"a": 1}, {"b": oops}, {"c": 3}]')
    assert found == [b'{"a": 1}', b'{"b": oops}', b'{"c": 3}']


def test_elements_that_are_not_objects_are_found(tmp_path: Path) -> None:
    found = spans_in(tmp_path, '[ null , {"a": 1} 17, "x],"]')
    assert found == [b"null", b'{"a": 1}', b"17", b'"x],"']


@pytest.mark.parametrize("text", ['[{"a": 1}, {"b": ', '[{"a": 1},', '[{"a": 1}, {"b": "x}]', "["])
def test_a_truncated_list_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(UserError, match=r"records\.json: the list breaks off"):
        spans_in(tmp_path, text)


@pytest.mark.parametrize(
    "text", ['[{"a": 1}}, {"b": 2}]', '[{"a": 1}], {"b": 2}]', '[{"a": 1}]\n[{"b": 2}]', "[}"]
)
def test_text_after_the_end_of_a_list_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(UserError, match=r"records\.json: the list ends at byte .* and the file goes on"):
        spans_in(tmp_path, text)


def test_white_space_may_follow_a_list(tmp_path: Path) -> None:
    assert spans_in(tmp_path, '[{"a": 1}]\r\n \n') == [b'{"a": 1}']


def test_a_file_that_is_not_a_list_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a JSON list; for one record a line set format to jsonl"):
        spans_in(tmp_path, '{"a": 1}\n{"b": 2}\n')


@pytest.mark.parametrize("find", [list_spans, line_spans])
def test_an_empty_file_is_refused(tmp_path: Path, find) -> None:
    with pytest.raises(UserError, match="the file is empty"):
        spans_in(tmp_path, "", find)


def test_lines_are_found_and_blank_ones_skipped(tmp_path: Path) -> None:
    assert spans_in(tmp_path, '{"a": 1}\n\n  \n{"b": oops}\n{"c": 3}', line_spans) == [
        b'{"a": 1}',
        b'{"b": oops}',
        b'{"c": 3}',
    ]


MEASURE = """
import json, sys
from pathlib import Path
from data.sources.json_spans import line_spans, list_spans
from tests.memory import peak_above

def peak(find, name):
    return peak_above(lambda: sum(1 for _ in find(Path(sys.argv[1], name))))

print(json.dumps({"list": peak(list_spans, "list"), "lines": peak(line_spans, "lines")}))
"""


@needs_peak_memory
def test_the_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    record, count = json.dumps({"id": "x" * 8000}), 8000
    (tmp_path / "list").write_text(f"[{','.join([record] * count)}]")
    (tmp_path / "lines").write_text(f"{record}\n" * count)
    peaks = run_program(MEASURE, str(tmp_path))
    assert max(peaks.values()) < 8000 * count / 2
