"""Progress of building a manifest: lines with count, rate, rejects and the estimated time."""

from __future__ import annotations

from pathlib import Path

import pytest

from data.manifest.manifest import open_manifest
from data.manifest.progress import ScanProgress
from data.sources import annotations
from data.sources.annotations import annotation_bytes, list_chunks
from data.sources.locations import source_files
from lladav.config.schema import SourceConfig, SourceFormat
from tests.data import build


class StepClock:
    """Advances by a second with each scan."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_long_build_reports_count_rate_rejects_and_what_is_left() -> None:
    lines, clock = [], StepClock()
    progress = ScanProgress(lines.append, 4000, clock)
    for clock.now in (1.0, 2.0, 3.0, 4.0):
        progress.add(500, 1, int(1000 * clock.now))
    progress.finish()
    assert lines == [
        "manifest      1,000 records      500 records/s  2 rejected  ETA 0:02",
        "manifest      2,000 records      500 records/s  4 rejected  ETA 0:00",
        "manifest      2,000 records      500 records/s  4 rejected  took 0:04",
    ]


def test_a_short_build_reports_nothing(tmp_path: Path, tokenizer: Path) -> None:
    lines = []
    source = build.json_source(tmp_path, build.RECORDS, build.IMAGES)
    open_manifest(build.settings(tmp_path, tokenizer, {"s": source}), report=lines.append)
    assert lines == []


def test_the_indexing_of_archives_is_reported(tmp_path: Path, tokenizer: Path) -> None:
    lines = []
    source = SourceConfig(
        SourceFormat.json, build.write_json(tmp_path, build.RECORDS), build.write_tars(tmp_path, build.IMAGES)
    )
    open_manifest(build.settings(tmp_path, tokenizer, {"s": source}), report=lines.append)
    assert lines == ["manifest 2 archives of s are indexed"]


@pytest.mark.parametrize("source_format", ["json", "jsonl", "parquet"])
def test_chunks_know_how_much_of_the_files_was_read(
    tmp_path: Path, tokenizer: Path, monkeypatch: pytest.MonkeyPatch, source_format: str
) -> None:
    monkeypatch.setattr(annotations, "RECORDS_PER_CHUNK", 1)
    records = [record for record in build.RECORDS if "video" not in record and record["id"] != "two"]
    write = {"json": build.write_json, "jsonl": build.write_lines}.get(source_format)
    name = write(tmp_path, records) if write else build.write_parquet(tmp_path, records, build.IMAGES, 1)
    source = SourceConfig(SourceFormat(source_format), name)
    files = source_files(build.settings(tmp_path, tokenizer, {"a": source, "b": source}))
    chunks, total = list(list_chunks(files)), annotation_bytes(files)
    assert total == 2 * (tmp_path / name).stat().st_size
    read = [chunk.read_bytes for chunk in chunks]
    assert sorted(read) == read
    assert len(set(read)) == 2 * len(records)
    assert total - 5 <= read[-1] <= total
