"""Why a run failed: what a rank raises, and what the driver reports and retries.

Ray Train ends all workers within seconds once one of them raises, and passes the exceptions of the failed
ranks to the driver. So a rank that fails always raises and never returns early. ``RankError`` carries text
only, because many exceptions of libraries cannot be unpickled.
"""

from __future__ import annotations

import errno
import re
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from ray.exceptions import OutOfMemoryError, RayTaskError
from ray.train import TrainingFailedError

from lladav.errors import UserError

PERMANENT = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM),
    *(errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG),
}
"""File errors that a retry cannot fix. Others may pass: EIO, ESTALE, ETIMEDOUT."""
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}

COLLATERAL_SECONDS = 10.0
"""How long a rank waits before it raises when another rank has closed the connection. Ray Train polls its
workers every two seconds and ends them at the first failure that it sees; this makes it the other rank's."""

MEMORY_SETTINGS = (
    "lower train.micro_batch or train.loss_chunk, set train.activation_checkpointing=true, "
    "or use more cluster.workers or nodes with more memory"
)


class RankError(Exception):
    """The failure of one rank, as one line."""

    def __init__(self, rank: int, line: str, retry: bool, collateral: bool = False) -> None:
        """``retry``: another attempt may succeed. ``collateral``: another rank failed first."""
        super().__init__(rank, line, retry, collateral)
        self.rank, self.line, self.retry, self.collateral = rank, line, retry, collateral

    def __str__(self) -> str:
        return f"rank {self.rank}: {self.line}"


@dataclass(frozen=True)
class Failure:
    """Why an attempt failed: one line, and whether another attempt may succeed."""

    line: str
    retry: bool = True


@contextmanager
def raise_as_rank_error(rank: int) -> Iterator[None]:
    """Turn any exception of the block into a ``RankError`` of this rank."""
    try:
        yield
    except Exception as error:
        collateral = _is_collateral(error)
        if collateral:
            time.sleep(COLLATERAL_SECONDS)
        failure = describe(error)
        raise RankError(rank, failure.line, failure.retry, collateral) from error


def describe(error: BaseException) -> Failure:
    """Describe an exception in one line and decide whether a retry may help."""
    if isinstance(error, RayTaskError):  # from a task of the data pipeline; str(error) is its traceback
        return describe(error.cause) if isinstance(error.cause, Exception) else Failure(_last_line(error))
    if isinstance(error, UserError):
        may_pass = isinstance(error.__cause__, OSError) and error.__cause__.errno not in PERMANENT
        return Failure(str(error), retry=may_pass)
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        fix = "; free some space or set train.storage" if error.errno in FULL else ""
        return Failure(f"{where}{error.strerror}{fix}", retry=error.errno not in PERMANENT)
    fix = f"; {MEMORY_SETTINGS}" if _names(error) & {"OutOfMemoryError", "MemoryError"} else ""
    return Failure(f"{type(error).__name__}: {_last_line(error)}{_origin(error)}{fix}")


def failure_of(error: TrainingFailedError) -> Failure:
    """The cause of a failed attempt: the failure of the rank that failed first."""
    ranks = getattr(error, "worker_failures", None)
    if not ranks:
        cause = getattr(error, "controller_failure", error)
        return Failure(_last_line(cause), retry=not isinstance(cause, UserError))
    failures = [_rank_failure(rank, each) for rank, each in sorted(ranks.items())]
    return min(failures, key=lambda each: each[0])[1]


def _rank_failure(rank: int, error: Exception) -> tuple[int, Failure]:
    """A rank's failure and its priority: a dead process, 0, explains the collateral failures of others."""
    if isinstance(error, RankError):
        return (2 if error.collateral else 1), Failure(str(error), error.retry)
    dead = getattr(error, "health_check_failure", None)
    if isinstance(dead, OutOfMemoryError):
        return 0, Failure(f"rank {rank}: {out_of_memory(str(dead), str(error))}")
    if dead is not None:
        return 0, Failure(f"rank {rank}: {worker_lost(str(error))}")
    return 1, Failure(f"rank {rank}: {describe(error).line}")


def out_of_memory(report: str, worker: str) -> str:
    """The line for a worker that Ray killed.

    ``report`` is the report of Ray's memory monitor, ``worker`` Ray Train's description of the worker.
    """
    pid, address = _pid_and_address(worker)
    memory = re.search(rf"pid={pid}, actual memory used=([\d.]+)GB", report)
    node = re.search(r"was ([\d.]+)GB used / ([\d.]+)GB limit", report)
    used = f"it used {memory[1]} GiB; " if memory else ""
    total = f"all processes of its node {node[1]} of {node[2]} GiB; " if node else ""
    return f"out of memory: Ray killed the worker (pid {pid} on {address}); {used}{total}{MEMORY_SETTINGS}"


def worker_lost(text: str) -> str:
    """The line for a worker process that ended without an exception; ``text`` is Ray Train's description."""
    pid, address = _pid_and_address(text)
    if "Worker unexpectedly exits with a connection error" in text:
        return (
            f"the worker (pid {pid} on {address}) was killed or crashed; if by the kernel's out-of-memory "
            f"killer (see dmesg or the pod's last state): {MEMORY_SETTINGS}"
        )
    return f"the worker (pid {pid} on {address}) is lost: {text.strip().splitlines()[-1].strip()}"


def _pid_and_address(text: str) -> tuple[str, str]:
    """Process id and node address in Ray Train's description of a worker."""
    pid, address = re.search(r"\bpid=(\d+)", text), re.search(r"node_ip='([^']+)'", text)
    return pid[1] if pid else "?", address[1] if address else "an unknown node"


def _is_collateral(error: BaseException) -> bool:
    """Whether a collective failed: another rank has ended, so this rank fails too."""
    text = str(error)
    return "DistError" in _names(error) or (
        isinstance(error, RuntimeError)
        and any(word in text for word in ("gloo", "NCCL", "Connection closed by peer"))
    )


def _names(error: BaseException) -> set[str]:
    """Names of the exception's class and its bases; comparing names needs no import of torch."""
    return {base.__name__ for base in type(error).__mro__}


def _origin(error: BaseException) -> str:
    """File and line that raised the exception."""
    frames = traceback.extract_tb(error.__traceback__)
    return f" ({frames[-1].filename.rpartition('/')[2]}:{frames[-1].lineno})" if frames else ""


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
