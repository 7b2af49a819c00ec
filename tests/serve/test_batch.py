"""The command on Ray: killed and resumed it answers each row once; object stores; mistakes are one line."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lladav.cluster import Head, local_head
from lladav.storage import files_in, location, read_text, upload
from serve.batch import main
from tests.buckets import S3Server
from tests.serve.images import encoded, sample_image
from tests.waiting import wait_for

ROWS = 64
Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture(scope="module")
def head(s3_server: S3Server) -> Iterator[Head]:
    """A private Ray whose workers reach the S3 server."""
    with local_head(cpus=4, variables=s3_server.environment) as running:
        yield running


@pytest.fixture
def start(root: Path, tmp_path: Path, head: Head, model_folder: Path) -> Start:
    """Starts the command on that Ray."""

    def started(**given: Any) -> subprocess.Popen[str]:
        settings = {"address": head.address, "model": model_folder, "engine.cpus": 0.5, **given}
        arguments = [f"{key}={value}" for key, value in settings.items()]
        environment = {**head.environment, "LLADAV_CACHE": str(tmp_path / "cache")}
        command = [sys.executable, str(root / "serve" / "batch.py"), *arguments]
        return subprocess.Popen(
            command,
            cwd=tmp_path,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return started


def finished(process: subprocess.Popen[str]) -> str:
    """The last line that a command prints."""
    output, errors = process.communicate()
    assert process.returncode == 0, errors
    return output.splitlines()[-1]


def kill_after(process: subprocess.Popen[str], folder: Path, parts: int) -> None:
    """Kill a run when it has committed some parts, without a chance to clean up."""

    def are_there() -> bool:
        assert process.poll() is None, process.communicate()
        return len(list(folder.glob("part-*.parquet"))) >= parts

    wait_for(are_there, "the parts are committed", pause=0.02)
    process.kill()
    process.communicate()


@pytest.mark.ray
@pytest.mark.slow
def test_a_run_that_is_killed_and_resumed_answers_each_row_once(
    tmp_path: Path, start: Start, model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"id": f"row {n}", "prompt": "Count.", "max_tokens": 24, "label": n} for n in range(ROWS)]
    rows[50]["prompt"] = None
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "in.parquet")
    sizes = {"engine.max_rows": 2, "task_rows": 4, "part_rows": 8, "engine.max_replicas": 2}
    given = {"input": "in.parquet", "output": "out", "keep": "[label]", **sizes}
    kill_after(start(**given), tmp_path / "out", 1)
    first = {file: file.read_bytes() for file in (tmp_path / "out").glob("part-*.parquet")}
    assert finished(start(**given)).startswith(f"{ROWS} rows, 1 with an error, ")
    assert all(file.read_bytes() == content for file, content in first.items())
    found = pq.read_table(tmp_path / "out").sort_by("row").to_pylist()
    assert [row["id"] for row in found] == [row["id"] for row in rows]
    assert [row["label"] for row in found] == list(range(ROWS))
    assert [row["row"] for row in found if row["error"]] == [50]
    paths = {"input": tmp_path / "in.parquet", "output": tmp_path / "out", "model": model_folder}
    again = [f"{key}={value}" for key, value in {**given, **paths}.items()]
    main(again)  # needs no Ray
    with pytest.raises(SystemExit):
        main([*again, "params.temperature=1"])
    printed = capsys.readouterr()
    assert "; 0 of them now, in " in printed.out
    assert (
        "was begun with params.temperature=null, now 1; take the old value or another output" in printed.err
    )


@pytest.mark.ray
@pytest.mark.slow
def test_input_images_model_and_output_may_be_in_a_bucket(
    tmp_path: Path, start: Start, bucket: str, model_folder: Path
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "a.png").write_bytes(encoded(sample_image()))
    content = [{"type": "image_url", "image_url": {"url": "a.png"}}, {"type": "text", "text": "What?"}]
    body = {"model": "llada-v-tiny", "max_tokens": 8, "messages": [{"role": "user", "content": content}]}
    line = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": body}
    lines = [
        json.dumps(line),
        json.dumps({**line, "custom_id": "b", "body": {**body, "model": "other"}}),
        "{",
    ]
    (data / "in.jsonl").write_text("\n".join(lines))
    upload(data, location(f"{bucket}/data"))
    upload(model_folder, location(f"{bucket}/model"))
    places = {"input": f"{bucket}/data/in.jsonl", "output": f"{bucket}/out", "model": f"{bucket}/model"}
    assert finished(start(**places)).startswith("3 rows, 2 with an error, ")
    [part] = files_in(location(f"{bucket}/out"))
    found = [json.loads(each) for each in read_text(location(f"{bucket}/out/{part}")).splitlines()]
    statuses = {each["custom_id"]: each["response"]["status_code"] for each in found}
    assert statuses == {"a": 200, "b": 404, "2": 400}


@pytest.mark.ray
@pytest.mark.slow
def test_an_engine_that_cannot_start_is_one_line(tmp_path: Path, start: Start) -> None:
    (tmp_path / "in.jsonl").write_text('{"prompt": "Count."}')
    process = start(input="in.jsonl", output="out", **{"engine.kv_bytes": 1})
    _, errors = process.communicate()
    assert process.returncode == 2
    assert errors.splitlines()[-1].startswith("error: ")
    assert "memory" in errors.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["in.jsonl"], "in.jsonl: not a setting; write key=value"),
        (["input=none.jsonl", "output=out", "model=m"], "input=none.jsonl: no such file or folder"),
        (["input=in", "output=out"], "model: needs a value"),
    ],
)
def test_a_mistake_is_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    error = capsys.readouterr().err
    assert ended.value.code == 2
    assert error.startswith(f"error: {message}")
    assert error.count("\n") == 1


def test_help_lists_the_settings(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--help", "part_rows=3"])
    text = capsys.readouterr().out
    assert all(f"\n  {name}" in text for name in ("input=", "part_rows=3", "engine.max_rows="))
