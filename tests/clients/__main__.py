"""Checks the server with clients of other projects, and writes the table in ``docs/serving.md``.

    make clients
    make clients ARGS="langchain instructor"                     # some; the other rows stay
    make clients ARGS="--address http://127.0.0.1:8000 openai"   # a server that runs already

Each client is installed unmodified into an environment of its own in ``.cache/clients``. Without
``--address``, a server starts with random weights: its answers make no sense, but have to have the right
form. Exits with code 1 if a check fails.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:1] = [str(ROOT), str(ROOT / "platform")]

from lladav.config.cli import one_line_errors  # noqa: E402 - the path comes first
from lladav.errors import UserError  # noqa: E402
from tests.clients.catalog import CLIENTS, Client  # noqa: E402
from tests.clients.environments import prepare  # noqa: E402
from tests.clients.reports import Report, run, update_table  # noqa: E402
from tests.clients.servers import running_server  # noqa: E402


def main(arguments: Sequence[str] | None = None) -> int:
    """Check clients; the number of clients with a failed check decides the exit code."""
    options = _parser().parse_args(arguments)
    with one_line_errors():
        clients = [_client(name) for name in options.names] or list(CLIENTS.values())
        with contextlib.ExitStack() as stack:
            address = options.address or stack.enter_context(running_server())
            reports = list(_reports(clients, address))
        update_table(reports)
    return int(any(report.failed for report in reports))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="make clients", description="Check the server with other clients.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(CLIENTS)}; all by default")
    parser.add_argument("--address", help="of a server that runs already, as in http://127.0.0.1:8000")
    return parser


def _client(name: str) -> Client:
    if name not in CLIENTS:
        raise UserError(f"{name}: no such client; choose {', '.join(CLIENTS)}")
    return CLIENTS[name]


def _reports(clients: Sequence[Client], address: str) -> Iterator[Report]:
    for client in clients:
        report = run(client, prepare(client), address)
        print(f"{client.title} {report.version}: {report.summary}", flush=True)
        for name, error in report.failed.items():
            print(f"  {name}: {error}", flush=True)
        yield report


if __name__ == "__main__":
    sys.exit(main())
