"""One driver at a time in a run's folder, wherever that is.

The owner renews its claim every few seconds. A process that finds a claim watches it. If it is renewed, its
owner is alive, and the process is refused. If it is not renewed for ``LEASE_SECONDS`` of the watcher's own
clock, its owner is dead, and the process takes it over. On one machine a dead owner is recognised at once.

A claim on a local or network file system is a lease of ``filelock``. In an object store it is an object that
is created only where none exists (a conditional put). An owner that lost its claim, as after a network
failure, is stopped when it commits a checkpoint: see ``Run.commit``.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

import psutil
from filelock import SoftFileLease, Timeout
from upath import UPath

from lladav.errors import UserError
from lladav.storage import (
    as_user_error,
    create_if_absent,
    local_path,
    make_folder,
    read_text,
    remove_file,
    write_durably,
)

LEASE_SECONDS = 60.0
"""A claim that is not renewed for this long is dead."""
RENEWALS = 6
"""Renewals within a lease."""
SETTLE_SECONDS = 1.0
"""Between taking over a dead claim in an object store and looking whether another process did the same."""

LOCK, OWNER = "run.lock", "owner.json"


def _pid_namespace() -> int:
    """What tells containers with the same host name apart, on Linux."""
    file = Path("/proc/self/ns/pid")
    return file.stat().st_ino if file.exists() else 0


@dataclass(frozen=True)
class Owner:
    """The process that works in a run's folder."""

    host: str = field(default_factory=socket.gethostname)
    pid: int = field(default_factory=os.getpid)
    since: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    ray_job: str | None = field(default_factory=lambda: os.environ.get("RAY_JOB_ID"))
    token: str = field(default_factory=lambda: secrets.token_hex(8))
    namespace: int = field(default_factory=_pid_namespace)

    @property
    def is_dead(self) -> bool:
        """Whether the process is known to have ended; one on another machine is not."""
        here = self.host == socket.gethostname() and self.namespace == _pid_namespace()
        return here and not psutil.pid_exists(self.pid)

    def __str__(self) -> str:
        job = f", Ray job {self.ray_job}" if self.ray_job else ""
        return f"process {self.pid} on {self.host} since {self.since}{job}"


class Claim(Protocol):
    """A claim on a folder that its owner renews."""

    def take(self) -> bool:
        """Claim the folder if nobody has, or if the claim is dead."""
        ...

    def state(self) -> str:
        """Text that changes with each renewal."""
        ...

    def release(self) -> None:
        """Give the claim up."""
        ...


@contextmanager
def owned(folder: UPath, lease_seconds: float = LEASE_SECONDS) -> Iterator[Owner]:
    """Own a run's folder, which is created if it is missing.

    Raises ``UserError`` in one line that names the owner where a live process has the folder.
    """
    owner = Owner()
    with as_user_error(f"{folder}: cannot be written", "set train.storage"):
        make_folder(folder)
        claim = claim_on(folder, lease_seconds)
        _take(claim, folder, lease_seconds)
    try:
        with as_user_error(f"{folder}: cannot be written", "set train.storage"):
            write_durably(folder / OWNER, json.dumps(asdict(owner)))
        yield owner
    finally:
        with suppress(OSError):
            if owner_of(folder) == owner:
                remove_file(folder / OWNER)
            claim.release()


def owner_of(folder: UPath) -> Owner | None:
    """The last process that owned the folder and did not give it up."""
    try:
        return Owner(**json.loads(read_text(folder / OWNER)))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def claim_on(folder: UPath, lease_seconds: float) -> Claim:
    """The kind of claim that the folder's file system supports."""
    if local := local_path(folder):
        return FileClaim(local / LOCK, lease_seconds)
    return ObjectClaim(folder / LOCK, lease_seconds)


def _take(claim: Claim, folder: UPath, lease_seconds: float) -> None:
    """Claim the folder, watching a claim that exists until it is renewed or dead."""
    deadline, seen = time.monotonic() + 2 * lease_seconds, None
    while not claim.take():
        state, owner = claim.state(), owner_of(folder) or "another process"
        if seen is None:
            seen = state
            print(
                f"{folder}: locked by {owner}; waits up to {lease_seconds:.0f} s to see whether it is alive",
                flush=True,
            )
        if state != seen or time.monotonic() > deadline:
            raise UserError(f"{folder}: in use by {owner}; stop it, or set train.run=<new name>")
        time.sleep(min(1.0, lease_seconds / 10))


class FileClaim:
    """A claim on a local or network file system."""

    def __init__(self, file: Path, lease_seconds: float) -> None:
        self._file = file
        self._lease = SoftFileLease(
            str(file),
            lease_duration=lease_seconds,
            heartbeat_interval=lease_seconds / RENEWALS,
            thread_local=False,
        )

    def take(self) -> bool:
        try:
            self._lease.acquire(blocking=False)
        except Timeout:
            return False
        return True

    def state(self) -> str:
        with suppress(FileNotFoundError):
            status = self._file.stat()
            return f"{status.st_ino} {status.st_mtime_ns}"
        return ""

    def release(self) -> None:
        self._lease.release()


class ObjectClaim:
    """A claim in an object store: an object with a token and a number that grows with each renewal."""

    def __init__(self, file: UPath, lease_seconds: float) -> None:
        self._file, self._lease_seconds = file, lease_seconds
        self._token, self._count = secrets.token_hex(8), 0
        self._watched: tuple[str, float] | None = None
        self._released = threading.Event()
        self._renewing = threading.Thread(target=self._renew, daemon=True)

    def take(self) -> bool:
        if not (create_if_absent(self._file, self._content()) or self._take_over()):
            return False
        self._renewing.start()
        return True

    def state(self) -> str:
        try:
            return read_text(self._file)
        except FileNotFoundError:
            return ""

    def release(self) -> None:
        self._released.set()
        self._renewing.join()
        if self._is_mine():
            remove_file(self._file)

    def _take_over(self) -> bool:
        """Replace the claim of a dead owner; of several that try, one succeeds."""
        owner = owner_of(self._file.parent)
        if not (owner and owner.is_dead) and self._unchanged_for() < self._lease_seconds:
            return False
        with suppress(FileNotFoundError):
            remove_file(self._file)
        if not create_if_absent(self._file, self._content()):
            return False
        time.sleep(SETTLE_SECONDS)
        return self._is_mine()

    def _unchanged_for(self) -> float:
        """Seconds for which this process has seen the claim as it is."""
        state, now = self.state(), time.monotonic()
        if self._watched is None or self._watched[0] != state:
            self._watched = state, now
        return now - self._watched[1]

    def _renew(self) -> None:
        while not self._released.wait(self._lease_seconds / RENEWALS):
            with suppress(OSError):  # the next renewal may succeed; a claim that expires is seen at a commit
                if not self._is_mine():
                    return
                self._count += 1
                write_durably(self._file, self._content())

    def _is_mine(self) -> bool:
        return self.state().startswith(self._token)

    def _content(self) -> str:
        return f"{self._token} {self._count}"
