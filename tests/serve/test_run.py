"""What ``make serve`` refuses before it starts anything: one line, exit code 2."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from serve.run import main


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["port=x"], "port=x: not a port; choose 1 to 65535"),
        (["engine.max_row=3"], "engine.max_row: unknown setting; did you mean engine.max_rows?"),
        (["--port"], "--port: not a setting; write key=value"),
        (["model=/no/such"], "/no/such/config.json: cannot be read (No such file or directory)"),
    ],
)
def test_mistakes_are_told_in_a_line(
    arguments: list[str], expected: str, model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    assert refusal([f"model={model_folder}", f"port={port}", *arguments], capsys) == expected


def test_a_taken_port_is_told(model_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        expected = f"port={port}: taken; choose another one, as in port={port + 1}"
        assert refusal([f"model={model_folder}", f"port={port}"], capsys) == expected


def refusal(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as left:
        main(arguments)
    error = capsys.readouterr().err
    assert (left.value.code, error.count("\n")) == (2, 1)
    return error.removeprefix("error: ").rstrip()
