"""Runs the script of a client, reads its results, and writes the table of ``docs/serving.md``.

A script prints one line of JSON at its end: the version of the client, and each check with its error or null.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from lladav.errors import UserError
from tests.clients.catalog import CLIENTS, Client
from tests.clients.environments import interpreter

HERE = Path(__file__).resolve().parent
PAGE = HERE.parents[1] / "docs" / "serving.md"
BEGIN, END = "<!-- make clients writes this table -->", "<!-- end of the table -->"
HEAD = ("| client | version | checked | result |", "|---|---|---|---|")
SECONDS = 600
"""Time limit of a script."""


@dataclass(frozen=True)
class Report:
    """The results of a client's checks."""

    client: Client
    version: str
    checks: Mapping[str, str | None]
    """The error of each check; None: it passed."""

    @property
    def failed(self) -> dict[str, str]:
        return {name: error for name, error in self.checks.items() if error is not None}

    @property
    def summary(self) -> str:
        """As in the table."""
        if not self.failed:
            return f"{len(self.checks)} of {len(self.checks)} pass"
        passed = len(self.checks) - len(self.failed)
        return f"{passed} of {len(self.checks)} pass; fails: {', '.join(self.failed)}"

    @property
    def row(self) -> str:
        return f"| {self.client.title} | {self.version} | {', '.join(self.checks)} | {self.summary} |"


def run(client: Client, folder: Path, address: str) -> Report:
    """Run the checks of a client in its environment. Raises ``UserError`` if its script has no results."""
    script = HERE / client.script
    if client.for_node:  # Node looks for packages beside the script
        for each in HERE.glob("*.mjs"):
            shutil.copy(each, folder)
        script = folder / client.script
    environment = {**os.environ, "LLADAV_ADDRESS": address}
    environment.pop("PYTHONPATH", None)
    done = subprocess.run(
        [*interpreter(client, folder), str(script)],
        check=False,
        capture_output=True,
        env=environment,
        text=True,
        timeout=SECONDS,
    )
    try:
        results = json.loads(done.stdout.splitlines()[-1])
        return Report(client, results["version"], results["checks"])
    except (IndexError, ValueError):
        sys.stderr.write(done.stdout + done.stderr)
        raise UserError(f"{client.name}: the script has no results; see the lines above") from None


def update_table(reports: Iterable[Report], page: Path = PAGE) -> None:
    """Replace the rows of the clients that ran; the rows of other clients stay."""
    text = page.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    table, _, after = rest.partition(END)
    rows = {row.split(" | ")[0].removeprefix("| "): row for row in table.strip().splitlines()[len(HEAD) :]}
    rows |= {report.client.title: report.row for report in reports}
    ordered = [rows[client.title] for client in CLIENTS.values() if client.title in rows]
    lines = "\n".join([BEGIN, "", *HEAD, *ordered, "", END])
    page.write_text(before + lines + after, encoding="utf-8")
