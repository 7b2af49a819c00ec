"""No record ends a run: any bytes on disk become a sample or a reject that is counted."""

from __future__ import annotations

import datetime
import decimal
import json
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from data.manifest.manifest import Manifest, open_manifest
from data.manifest.quarantine import Quarantine, Reject, read_rejects
from data.pipeline.microbatches import build_row, to_batch
from data.pipeline.plan import BatchLayout, Plan
from data.pipeline.reading import SampleReader
from data.records.parsing import COLUMNS
from data.records.record import BadSample, Reason
from lladav.config.schema import Config, MissingMark, SourceConfig, SourceFormat
from lladav.errors import UserError
from tests.conftest import Golden
from tests.data import build

IMAGES = {
    "a.png": build.image_file(30, 30),
    "folder/b.png": build.image_file(9, 9),
    "c.gif": build.animation_file(2, 500),
}
GOOD = build.record("good", "a.png")

any_text = st.text(st.characters(codec=None, exclude_categories=()))  # including halves of surrogate pairs
names = st.sampled_from(["a.png", "folder", "c.gif", "", ".", "..", "/", "a.png/x", "\0", "n" * 300])
paths = names | any_text | st.builds("/".join, st.lists(names, max_size=3))
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | any_text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(any_text, inner, max_size=3),
    max_leaves=8,
)
media = paths | st.lists(paths | st.lists(paths, max_size=2), max_size=3) | values
urls = media | st.fixed_dictionaries({"url": media})
texts = st.sampled_from(["<image>", "<image>\nWhat?", "<video>", "", " ", "\0", "QA_GT_caption_based_noisy"])
parts = st.fixed_dictionaries(
    {"type": st.sampled_from(["text", "image", "image_url", "video"]) | values},
    optional={"text": texts | values, "image": media, "image_url": urls},
)
contents = texts | any_text | st.lists(parts | values, max_size=3) | values
roles = st.sampled_from(["human", "gpt", "user", "assistant", "system"])
turns = st.fixed_dictionaries({"from": roles | values, "value": contents}) | st.fixed_dictionaries(
    {"role": roles | values, "content": contents}
)
conversations = st.lists(turns | values, max_size=4) | values
records = st.fixed_dictionaries(
    {},
    optional={
        "id": values,
        "image": media,
        "images": media,
        "video": media,
        "videos": media,
        "conversations": conversations,
        "messages": conversations,
        "system": texts | values,
    },
)
lines = st.binary(max_size=40).map(lambda line: line.replace(b"\n", b" "))


def read_all(manifest: Manifest) -> list[Reject]:
    """Read every sample as training does; returns the rejects."""
    reader, steps = SampleReader(manifest), len(manifest)
    plan = Plan(manifest.lengths, seed=0, global_batch=1, steps=steps)
    batches = [
        to_batch(
            build_row(reader, plan.micro_batch(step, 0, 0, BatchLayout(1, 1))),
            manifest.spec.geometry.tile,
        )
        for step in range(steps)
    ]
    assert all(len(batch.rejected) == batch.is_blank for batch in batches)
    return [reject for batch in batches for reject in batch.rejected]


def check(manifest: Manifest, records: int) -> list[Reject]:
    """Check that every record is a readable sample or a quarantined reject; returns the rejects."""
    rejects = read_rejects(manifest.quarantine)
    assert manifest.summary.records == len(manifest) + len(rejects) == records
    assert not read_all(manifest)
    return rejects


def settings_of(root: Path, tokenizer: Path, source: SourceConfig) -> Config:
    return build.settings(root, tokenizer, {"s": source})


def rejects_of(lines: Sequence[bytes], tokenizer: Path, missing_mark: MissingMark) -> list[Reject]:
    """The rejects of JSON lines that follow a good one."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "records.jsonl").write_bytes(b"\n".join([json.dumps(GOOD).encode(), *lines]))
        source = SourceConfig(SourceFormat.jsonl, "records.jsonl", build.write_folder(root, IMAGES))
        config = settings_of(root, tokenizer, source)
        config.data.missing_mark = missing_mark
        return check(open_manifest(config), 1 + sum(bool(line.strip()) for line in lines))


@given(st.lists(lines, max_size=4))
@settings(max_examples=60)
def test_any_bytes_are_a_sample_or_a_reject(golden: Golden, lines: list[bytes]) -> None:
    rejects_of(lines, golden.folder / "tokenizer", MissingMark.reject)


@given(st.lists(records | values, max_size=4), st.sampled_from(MissingMark))
@example([{"image": "a.png", "conversations": build.turns("<image>", "\ud83d")}], MissingMark.reject)
@example([{"image": "n" * 300, "conversations": build.turns("<image>", "a")}], MissingMark.reject)
@example([{"image": "folder", "conversations": build.turns("<image>", "a")}], MissingMark.reject)
@example([{"conversations": [{"from": ["human"], "value": "a"}]}], MissingMark.reject)
@settings(max_examples=150)
def test_any_json_is_a_sample_or_a_reject(
    golden: Golden, listed: list[Any], missing_mark: MissingMark
) -> None:
    dumped = [json.dumps(record).encode() for record in listed]
    rejects = rejects_of(dumped, golden.folder / "tokenizer", missing_mark)
    assert Reason.failed not in {reject.reason for reject in rejects}


def no_utf8(count: int) -> pa.Array:
    return pa.array([b"\xff\xfe"] * count, pa.binary()).view(pa.string())


COLUMN_TYPES: dict[str, Callable[[], pa.Array]] = {
    "integers": lambda: pa.array([1, -1, None]),
    "floats": lambda: pa.array([1.5, float("nan"), float("inf")]),
    "booleans": lambda: pa.array([True, False, None]),
    "nulls": lambda: pa.nulls(3),
    "bytes": lambda: pa.array([b"\xff", b"", IMAGES["a.png"]]),
    "texts that are not UTF-8": lambda: no_utf8(3),
    "dictionary": lambda: pa.array(["a.png", "b", "a.png"]).dictionary_encode(),
    "decimals": lambda: pa.array([decimal.Decimal("1.5")] * 3),
    "times beyond year 9999": lambda: pa.array([2**58] * 3, pa.timestamp("ms")),
    "nanoseconds": lambda: pa.array([2**62 + 1] * 3, pa.timestamp("ns")),
    "durations": lambda: pa.array([datetime.timedelta(1)] * 3),
    "lists of integers": lambda: pa.array([[1], [], None]),
    "lists of lists": lambda: pa.array([[["a.png"]], [[]], [["a.png", None]]]),
    "structs of other fields": lambda: pa.array([{"url": "a.png"}, {"url": None}, None]),
    "structs of other types": lambda: pa.array([{"bytes": 1, "path": 2}] * 3),
    "turns of other types": lambda: pa.array([[{"from": 1, "value": [1]}]] * 3),
    "maps": lambda: pa.array([[("a", 1)]] * 3, pa.map_(pa.string(), pa.int64())),
}


@pytest.mark.parametrize("column", COLUMNS)
@pytest.mark.parametrize("kind", COLUMN_TYPES)
def test_any_column_gives_samples_or_rejects(column: str, kind: str, tmp_path: Path, tokenizer: Path) -> None:
    conversations = pa.array([build.turns("<image>What?", "That.")] * 3)
    columns = {"image": pa.array([{"bytes": IMAGES["a.png"]}] * 3), "conversations": conversations}
    table = pa.table(columns | {column: COLUMN_TYPES[kind]()})
    (tmp_path / "parts").mkdir()
    pq.write_table(pa.table(columns).slice(0, 1), tmp_path / "parts" / "0.parquet")
    pq.write_table(table, tmp_path / "parts" / "1.parquet")
    source = SourceConfig(SourceFormat.parquet, "parts/*.parquet", build.write_folder(tmp_path, IMAGES))
    rejects = check(open_manifest(settings_of(tmp_path, tokenizer, source)), 4)
    assert Reason.failed not in {reject.reason for reject in rejects}
    assert all(column in reject.detail for reject in rejects if reject.reason == Reason.bad_record)


def test_a_value_that_cannot_be_read_costs_its_own_row(tmp_path: Path, tokenizer: Path) -> None:
    conversations = pa.array([build.turns("What?", "That.")] * 4)
    names = pa.concat_arrays([pa.array(["a", "b"]), no_utf8(1), pa.array(["d"])])
    images = pa.concat_arrays([no_utf8(1), pa.array([None, None, None], pa.string())])
    table = pa.table({"id": names, "image": images, "conversations": conversations})
    pq.write_table(table, tmp_path / "records.parquet")
    source = SourceConfig(SourceFormat.parquet, "records.parquet")
    manifest = open_manifest(settings_of(tmp_path, tokenizer, source))
    (reject,) = check(manifest, 4)
    assert (reject.record, reject.reason) == ("a", "bad_record")
    assert "'image' is unreadable (UnicodeDecodeError" in reject.detail


def test_a_damaged_row_group_costs_its_rows(tmp_path: Path, tokenizer: Path) -> None:
    records = [build.record(f"r{n}", "a.png") for n in range(4)]
    file = tmp_path / build.write_parquet(tmp_path, records, IMAGES, row_group=2)
    column = pq.ParquetFile(file).metadata.row_group(1).column(1)
    content = bytearray(file.read_bytes())
    start = column.dictionary_page_offset or column.data_page_offset
    content[start : start + 40] = b"\xff" * 40
    file.write_bytes(content)
    source = SourceConfig(SourceFormat.parquet, "records.parquet")
    manifest = open_manifest(settings_of(tmp_path, tokenizer, source))
    rejects = check(manifest, 4)
    assert [reject.reason for reject in rejects] == ["bad_record"] * 2
    assert all("unreadable" in reject.detail for reject in rejects)


def shorten(root: Path) -> None:
    file = root / "records.jsonl"
    file.write_bytes(file.read_bytes()[:-30])


def replace_record(root: Path, **fields: Any) -> None:
    file = root / "records.jsonl"
    before = file.read_bytes()
    changed = json.dumps(GOOD | fields).encode()
    file.write_bytes(changed + b" " * (len(before) - len(changed)))


CHANGES: dict[str, tuple[Callable[[Path], Any], Reason]] = {
    "the records are gone": (lambda root: (root / "records.jsonl").unlink(), Reason.missing_file),
    "the records are cut short": (shorten, Reason.bad_json),
    "the record lost its image": (lambda root: replace_record(root, image=None), Reason.bad_record),
    "the record is shorter": (
        lambda root: replace_record(root, conversations=build.turns("<image>?", "No.")),
        Reason.bad_record,
    ),
    "the image is gone": (lambda root: (root / "images" / "a.png").unlink(), Reason.missing_file),
    "the image is a folder": (
        lambda root: ((root / "images" / "a.png").unlink(), (root / "images" / "a.png").mkdir()),
        Reason.missing_file,
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_after_the_scan_gives_a_reject(
    change: str, tmp_path: Path, tokenizer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "records.jsonl").write_text(json.dumps(GOOD))
    source = SourceConfig(SourceFormat.jsonl, "records.jsonl", build.write_folder(tmp_path, IMAGES))
    manifest = open_manifest(settings_of(tmp_path, tokenizer, source))
    act, reason = CHANGES[change]
    monkeypatch.setattr("data.sources.annotations.read_at", _read_now)  # the file may still be open
    act(tmp_path)
    (reject,) = read_all(manifest)
    assert reject.reason == reason


def _read_now(path: str, offset: int, size: int) -> bytes:
    return Path(path).read_bytes()[offset : offset + size]


def test_an_unexpected_error_is_a_reject(
    tmp_path: Path, tokenizer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = build.json_source(tmp_path, [GOOD, build.record("other")], IMAGES)
    config = settings_of(tmp_path, tokenizer, source)
    with monkeypatch.context() as patch:
        patch.setattr("data.manifest.scan.image_size", lambda *_: 1 / 0)
        manifest = open_manifest(config, tmp_path / "first")
    (reject,) = check(manifest, 2)
    assert reject.reason == "failed"
    assert reject.detail.startswith("ZeroDivisionError at test_any_record.py:")
    whole = open_manifest(config, tmp_path / "second")
    monkeypatch.setattr("data.pipeline.reading.read_image", lambda *_: 1 / 0)
    (reject,) = read_all(whole)
    assert (reject.record, reject.reason) == ("good", "failed")


def test_a_user_error_still_ends_the_run(
    tmp_path: Path, tokenizer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise UserError("install the package av")

    monkeypatch.setattr("data.manifest.scan.image_size", refuse)
    with pytest.raises(UserError, match="install the package av"):
        open_manifest(settings_of(tmp_path, tokenizer, build.json_source(tmp_path, [GOOD], IMAGES)))


def test_odd_ids_and_long_details_are_quarantined_and_read_back(tmp_path: Path) -> None:
    odd = 'r"\n\u2028\x85\\ud83d' + "x" * 100_000
    reject = Reject.of("s", "s:records.json#1", odd, "here", BadSample(Reason.bad_record, odd))
    Quarantine(tmp_path, 0, {}, 10).add([reject])
    (file,) = tmp_path.glob("*.jsonl")
    assert read_rejects(file) == [reject]
    assert file.stat().st_size < 4000


def test_a_records_file_may_have_any_name(tmp_path: Path, tokenizer: Path) -> None:
    name = os.fsdecode(b"r\xff.jsonl")
    (tmp_path / name).write_text(json.dumps(GOOD))
    source = SourceConfig(SourceFormat.jsonl, "*.jsonl", build.write_folder(tmp_path, IMAGES))
    manifest = open_manifest(settings_of(tmp_path, tokenizer, source))
    check(manifest, 1)
    assert manifest.row(0)["id"] == r"s:r\udcff.jsonl#0"
