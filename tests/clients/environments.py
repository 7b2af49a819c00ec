"""An environment for each client: a virtual environment of Python, or a folder with packages of Node."""

from __future__ import annotations

import shutil
import subprocess
import sys
import venv
from collections.abc import Sequence
from pathlib import Path

from lladav.errors import UserError
from tests.clients.catalog import Client

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / ".cache" / "clients"
READY = "ready"
"""File in an environment that is complete; it lists the packages."""
INSTALL_SECONDS = 900


def prepare(client: Client) -> Path:
    """The folder of a client's environment, which is made if it is missing or has other packages."""
    folder, wanted = FOLDER / client.name, "\n".join(client.packages)
    ready = folder / READY
    if not ready.is_file() or ready.read_text() != wanted:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        (_install_for_node if client.for_node else _install)(folder, client.packages)
        ready.write_text(wanted)
    return folder


def interpreter(client: Client, folder: Path) -> list[str]:
    """The command that runs a script of a client."""
    return [_found("node")] if client.for_node else [str(folder / "bin" / "python")]


def _install(folder: Path, packages: Sequence[str]) -> None:
    venv.create(folder, with_pip=True)
    _run(
        [
            str(folder / "bin" / "python"),
            "-m",
            "pip",
            "install",
            "--quiet",
            "--quiet",
            "--no-compile",
            *packages,
        ]
    )


def _install_for_node(folder: Path, packages: Sequence[str]) -> None:
    _run(
        [_found("npm"), "install", "--silent", "--no-audit", "--no-fund", "--prefix", str(folder), *packages]
    )


def _found(command: str) -> str:
    path = shutil.which(command)
    if path is None:
        raise UserError(f"{command}: not installed; install Node 20, or name other clients")
    return path


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, check=False, stdout=sys.stderr, timeout=INSTALL_SECONDS)
    if done.returncode:
        raise UserError(f"{' '.join(command)}: failed; see the lines above")
