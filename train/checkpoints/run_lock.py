"""The lock on a run's folder: one driver at a time, on any kind of storage.

The owner renews its claim every few seconds. A process that finds a claim watches it. If the claim is
renewed, its owner is alive, and the process is refused. If it is not renewed for ``LEASE_SECONDS`` on the
watcher's own clock, its owner is dead, and the process takes it over. An owner on the same machine that has
ended is recognized at once.

A claim on a local or network file system is a lease of ``filelock``. In an object store it is an object,
created by a conditional put that fails if the object exists. An owner that has lost its claim, for example
after a network failure, gets an error when it commits a checkpoint: see ``Run.commit``.
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
    file_info,
    local_path,
    make_folder,
    object_version,
    read_text,
    remove_file,
    replace_if_unchanged,
    write_durably,
)

LEASE_SECONDS = 60.0
"""A claim that is not renewed for this long is dead."""
RENEWALS = 6
"""Renewals within a lease."""

LOCK, OWNER = "run.lock", "owner.json"


def _pid_namespace() -> int:
    """Distinguishes containers with the same host name, on Linux."""
    file = Path("/proc/self/ns/pid")
    return file.stat().st_ino if file.exists() else 0


@dataclass(frozen=True)
class Owner:
    """The process that has claimed a run's folder."""

    host: str = field(default_factory=socket.gethostname)
    pid: int = field(default_factory=os.getpid)
    since: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    ray_job: str | None = field(default_factory=lambda: os.environ.get("RAY_JOB_ID"))
    token: str = field(default_factory=lambda: secrets.token_hex(8))
    namespace: int = field(default_factory=_pid_namespace)

    @property
    def is_dead(self) -> bool:
        """Whether the process has certainly ended. Unknown, so False, for a process on another machine."""
        here = self.host == socket.gethostname() and self.namespace == _pid_namespace()
        return here and not psutil.pid_exists(self.pid)

    def __str__(self) -> str:
        job = f", Ray job {self.ray_job}" if self.ray_job else ""
        return f"process {self.pid} on {self.host} since {self.since}{job}"


class Claim(Protocol):
    """A claim on a folder that its owner renews."""

    def acquire(self) -> bool:
        """Claim the folder if it has no claim or a dead one; return whether that succeeded."""
        ...

    def state(self) -> str:
        """A text that changes with each renewal."""
        ...

    def release(self) -> None:
        """Remove the claim."""
        ...


@contextmanager
def claimed(folder: UPath, lease_seconds: float = LEASE_SECONDS) -> Iterator[Owner]:
    """Hold the claim on a run's folder during the block; create the folder if it is missing.

    Raises ``UserError`` that names the owner if a live process has claimed the folder.
    """
    owner = Owner()
    with as_user_error(f"{folder}: cannot be written", "set train.storage"):
        make_folder(folder)
        claim = claim_for(folder, owner, lease_seconds)
        _acquire(claim, folder, lease_seconds)
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
    """The process that claimed the folder last and has not released it; None if there is none."""
    try:
        return _parse_owner(read_text(folder / OWNER))
    except FileNotFoundError:
        return None


def _owner_in(claim: str) -> Owner | None:
    """The owner in the text of an ``ObjectClaim``."""
    return _parse_owner(claim.partition(" ")[2])


def _parse_owner(text: str) -> Owner | None:
    try:
        return Owner(**json.loads(text))
    except (ValueError, TypeError):
        return None


def claim_for(folder: UPath, owner: Owner, lease_seconds: float) -> Claim:
    """The kind of claim that the folder's storage supports."""
    if local := local_path(folder):
        return FileClaim(local / LOCK, lease_seconds)
    return ObjectClaim(folder / LOCK, owner, lease_seconds)


def _acquire(claim: Claim, folder: UPath, lease_seconds: float) -> None:
    """Claim the folder; if it has a claim, watch it until it is renewed or dead."""
    deadline, seen = time.monotonic() + 2 * lease_seconds, None
    while not claim.acquire():
        state, owner = claim.state(), owner_of(folder) or "another process"
        if seen is None:
            seen = state
            print(
                f"{folder}: locked by {owner}; waiting up to {lease_seconds:.0f} s to see if it is alive",
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

    def acquire(self) -> bool:
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
    """A claim in an object store: an object with its owner and a counter of renewals."""

    def __init__(self, file: UPath, owner: Owner, lease_seconds: float) -> None:
        self._file, self._owner, self._lease_seconds = file, owner, lease_seconds
        self._renewals = 0
        self._watched: tuple[str, float] | None = None
        self._released = threading.Event()
        self._renewing = threading.Thread(target=self._renew, daemon=True)

    def acquire(self) -> bool:
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
        """Replace the claim of a dead owner; one of several concurrent processes succeeds."""
        try:
            # The version comes first: a claim that is renewed or replaced after this is not replaced below.
            version = object_version(file_info(self._file))
        except FileNotFoundError:
            return False
        state = self.state()
        owner = _owner_in(state)
        if not (owner and owner.is_dead) and self._unchanged_for(state) < self._lease_seconds:
            return False
        return replace_if_unchanged(self._file, self._content(), version)

    def _unchanged_for(self, state: str) -> float:
        """Seconds since this process first saw the claim in this state."""
        now = time.monotonic()
        if self._watched is None or self._watched[0] != state:
            self._watched = state, now
        return now - self._watched[1]

    def _renew(self) -> None:
        while not self._released.wait(self._lease_seconds / RENEWALS):
            with suppress(OSError):  # the next renewal may succeed; ``Run.commit`` notices an expired claim
                if not self._is_mine():
                    return
                self._renewals += 1
                write_durably(self._file, self._content())

    def _is_mine(self) -> bool:
        return _owner_in(self.state()) == self._owner

    def _content(self) -> str:
        return f"{self._renewals} {json.dumps(asdict(self._owner))}"
