"""Mistakes that ``make serve`` reports before it starts anything: one line, exit code 2."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lladav.errors import UserError
from serve.app import build
from serve.run import main
from serve.settings import ServeSettings
from serve.starting import reason
from serve.validation_errors import known_paths
from tests.serve.apis import settings_of


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["port=x"], "port=x: not a port; choose 1 to 65535"),
        (["engine.max_row=3"], "engine.max_row: unknown setting; did you mean engine.max_rows?"),
        (["--port"], "--port: not a setting; write key=value"),
        (["--port=8123"], "--port=8123: not a setting; write key=value"),
        (["model=/no/such"], "/no/such/config.json: cannot be read (No such file or directory)"),
        (["aliases.fast.steps=5"], "aliases.fast: "),
        (["limits_storage=async+etcd://x"], "limits_storage: "),
        (["auth=keys", "keys_file=/no/such"], "/no/such: cannot be read (No such file or directory)"),
    ],
)
def test_mistakes_are_reported_in_a_line(
    arguments: list[str], expected: str, model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    assert refusal([f"model={model_folder}", f"port={port}", *arguments], capsys).startswith(expected)


def test_help_has_a_line_for_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--help", "engine.max_rows=3", "port=81"])
    found = (
        re.fullmatch(r"  ([\w.]+)=(\S*|.*[\]}])  +(\S.*)", line)
        for line in capsys.readouterr().out.splitlines()
    )
    shown = {each[1]: (each[2], each[3]) for each in found if each}
    below = ("dial.presets.",)  # shown as one value
    paths = [path for path in known_paths(ServeSettings, {}) if not path.startswith(below)]
    sections = {path.rpartition(".")[0] for path in paths}
    assert {*shown, "port"} == {*paths, "port", "config"} - sections
    assert shown["engine.max_rows"] == ("3", "Answers that are decoded together, at most")
    assert shown["limits.messages"][0] == "64"
    assert shown["model"][0] == ""
    assert shown["media.workers"][1].endswith("; as many decode videos")  # a pipe has whole lines


def test_a_taken_port_is_reported(model_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        expected = f"port={port}: taken; choose another one, as in port={port + 1}"
        assert refusal([f"model={model_folder}", f"port={port}"], capsys) == expected


def test_a_truncated_checkpoint_is_reported_before_anything_starts(
    model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "short"
    shutil.copytree(model_folder, folder)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    error = refusal([f"model={folder}"], capsys)
    assert re.fullmatch(rf"{weights}: truncated: \S+ ends at byte \d+, the file at \d+; copy it again", error)
    with pytest.raises(UserError, match="truncated"):
        build(settings_of(folder))


TRACEBACK = """The deployment failed to start 3 times in a row. See controller logs for details. Error:
ray::ServeReplica:lladav:engine.initialize_and_get_metadata() (pid=1, ip=10.0.0.1)
  File "/app/ray/serve/_private/replica.py", line 1928, in initialize_and_get_metadata
    raise RuntimeError(traceback.format_exc()) from None
RuntimeError: Traceback (most recent call last):
  File "/app/serve/engine/replica.py", line 33, in __init__
    engine = engine_of(open_replica_model(settings), settings.engine)
{raised}
"""


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        (
            ["", "lladav.errors.UserError: w.safetensors: q is NaN; copy: it"],
            "w.safetensors: q is NaN; copy: it",
        ),
        (
            ["torch.OutOfMemoryError: CUDA out of memory.\nTried"],
            "torch.OutOfMemoryError: CUDA out of memory.",
        ),
    ],
)
def test_the_reason_of_a_replica_that_cannot_start_is_the_end_of_its_traceback(
    messages: list[str], expected: str
) -> None:
    given = [TRACEBACK.format(raised=each) if each else "" for each in messages]
    assert reason([*given, "Deploying application lladav failed"]) == f"a replica cannot start: {expected}"


def test_without_a_traceback_the_reason_is_what_ray_says() -> None:
    failed = "Deploying application lladav failed: no resources\nmore"
    assert reason(["", failed]) == "Deploying application lladav failed: no resources"


@pytest.mark.ray
def test_a_replica_that_cannot_start_is_reported_in_one_line(
    model_folder: Path, tmp_path: Path, root: Path
) -> None:
    """A value that is not finite is found in the replica, which reads the weights."""
    folder = tmp_path / "damaged"
    shutil.copytree(model_folder, folder)
    tensors = load_file(folder / "model.safetensors")
    name = next(each for each in tensors if each.endswith("q_proj.weight"))
    tensors[name][0, 0] = torch.nan
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "serve.run", f"model={folder}", f"port={port}"]
    once = {**os.environ, "RAY_SERVE_MAX_PER_REPLICA_RETRY_COUNT": "1"}  # it would fail three times alike
    ended = subprocess.run(
        command, cwd=root, env=once, capture_output=True, text=True, check=False, timeout=150
    )
    assert ended.returncode == 2
    (line,) = [each for each in ended.stderr.splitlines() if each.startswith("error: ")]
    assert line.startswith(
        f"error: a replica cannot start: {folder / 'model.safetensors'}: {name} has values "
    )
    assert "Traceback" not in ended.stdout + ended.stderr


def refusal(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as left:
        main(arguments)
    error = capsys.readouterr().err
    assert (left.value.code, error.count("\n")) == (2, 1)
    return error.removeprefix("error: ").rstrip()
