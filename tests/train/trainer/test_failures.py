"""A failure is reported in one line that names the rank and the cause; only what may pass is retried."""

from __future__ import annotations

import errno
import pickle
import resource
from pathlib import Path

import pytest
import ray.exceptions
import torch.distributed as dist
from ray.train import WorkerGroupError
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError
from torch.multiprocessing.spawn import ProcessRaisedException

from lladav.errors import UserError
from tests.train.ranks import on_ranks
from tests.train.settings import settings
from train.trainer import failures
from train.trainer.failures import RankError, describe, failure_of, raise_as_rank_error

MESSAGES = Path(__file__).parents[1] / "ray_messages"
"""Messages of Ray 2.60 about workers killed by its memory monitor and by SIGKILL."""


def health_check_failure(file: str, kind: type[Exception]) -> WorkerHealthCheckFailedError:
    """As Ray Train reports it: its description of the worker, then Ray's message about its end."""
    worker, end, cause = (MESSAGES / file).read_text().partition(",\n)\n")
    failure = (
        kind(cause) if kind is ray.exceptions.OutOfMemoryError else ray.exceptions.RayActorError("", cause)
    )
    return WorkerHealthCheckFailedError(worker + end, failure=failure)


def test_a_worker_killed_for_memory_is_reported_with_its_use_and_a_fix() -> None:
    killed = health_check_failure("out_of_memory.txt", ray.exceptions.OutOfMemoryError)
    victim = RankError(0, "RuntimeError: gloo: Connection closed by peer", retry=True, collateral=True)
    found = failure_of(WorkerGroupError("", {0: victim, 1: killed}))
    assert found.line.startswith(
        "rank 1: out of memory: Ray killed the worker (pid 25214 on 192.0.2.2); it used 5.38 GiB; "
        "all processes of its node 10.72 of 23.54 GiB; lower train.micro_batch"
    )
    assert "\n" not in found.line
    assert found.retry


def test_a_killed_worker_is_reported_with_where_to_look() -> None:
    killed = health_check_failure("killed.txt", ray.exceptions.RayActorError)
    found = failure_of(WorkerGroupError("", {0: killed}))
    assert found.line.startswith("rank 0: the worker (pid 18581 on 192.0.2.2) was killed or crashed; ")
    assert "\n" not in found.line


def test_the_rank_that_failed_first_is_named() -> None:
    victim = RankError(0, "RuntimeError: gloo: Connection closed by peer", retry=True, collateral=True)
    cause = RankError(3, "no.json: No such file", retry=False)
    found = failure_of(WorkerGroupError("", {0: victim, 3: cause}))
    assert (found.line, found.retry) == ("rank 3: no.json: No such file", False)


def caused(error: UserError, cause: OSError) -> UserError:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "line", "retry"),
    [
        (UserError("train.micro_batch=0: too few"), "train.micro_batch=0: too few", False),
        (
            OSError(errno.EDQUOT, "Disk quota exceeded", "/a"),
            "/a: Disk quota exceeded; free some space",
            False,
        ),
        (OSError(errno.EIO, "Input/output error", "/a"), "/a: Input/output error", True),
        (caused(UserError("/w: cannot be written"), OSError(errno.EIO, "")), "/w: cannot be written", True),
        (
            caused(UserError("/w: cannot be written"), OSError(errno.EDQUOT, "")),
            "/w: cannot be written",
            False,
        ),
        (ValueError("first\nlast"), "ValueError: last", True),
        (MemoryError(), "MemoryError: MemoryError; lower train.micro_batch", True),
    ],
)
def test_only_what_may_pass_is_retried(error: Exception, line: str, retry: bool) -> None:
    found = describe(error)
    assert found.line.startswith(line)
    assert found.retry is retry


CLOSED = (
    "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:58799"
)
"""Message of a gloo collective if the process of another rank has ended."""


@pytest.mark.parametrize(
    ("error", "collateral"), [(RuntimeError(CLOSED), True), (RuntimeError("bad"), False)]
)
def test_a_closed_connection_is_another_ranks_failure(
    error: Exception, collateral: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(failures, "COLLATERAL_SECONDS", 0.0)
    with pytest.raises(RankError) as raised, raise_as_rank_error(3):
        raise error
    copy = pickle.loads(pickle.dumps(raised.value))
    assert (copy.rank, copy.collateral, str(copy)) == (3, collateral, str(raised.value))


def failing(kind: str, folder: str) -> None:
    """Train on one of two ranks: rank 1 (rank 0 for an export) fails, and the other waits for it."""
    rank = dist.get_rank()
    with raise_as_rank_error(rank):
        _fail(kind, rank, Path(folder))


def _fail(kind: str, rank: int, folder: Path) -> None:
    from tests.train.trainer.test_zero_engine import STEPS, micro_batches
    from train.checkpoints.run_folder import Run
    from train.trainer.checkpointing import resume, save

    config = settings(folder, global_batch=4)
    if kind == "load" and rank == 1:
        (shard,) = (folder / "test").glob("checkpoint-*/engine/rank-00001-*")
        shard.write_bytes(shard.read_bytes()[:-1])
    run = Run.of(config)
    engine, first = resume(run, config, STEPS, None)
    batches = micro_batches(config, first)
    if kind == "data" and rank == 1:
        raise ray.exceptions.RayTaskError("read", "Traceback\nValueError: bad", ValueError("bad archive"))
    if kind == "forward" and rank == 1:
        batches[0].packed.token_ids_T[0] = 10**6
    engine.step(batches, first)
    if kind == "export":
        if rank == 0:
            limit_files(20_000)
        engine.export(folder / "weights")
    if kind == "save" and rank == 1:
        limit_files(20_000)
    assert save(engine, run, config, first + 1, STEPS) is None


def limit_files(size: int) -> None:
    """Limit the size of files that this process writes; writing fails as with a full quota."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two ranks with one checkpoint."""
    folder = tmp_path_factory.mktemp("failing")
    on_ranks(2, failing, "nothing", str(folder))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("data", "rank 1: ValueError: bad archive"),
        ("forward", "rank 1: IndexError: "),
        (
            "save",
            "rank 1: {folder}/test/checkpoint-00000001/engine/rank-00001-of-00002.safetensors: File too",
        ),
        ("export", "rank 0: {folder}/weights: cannot be written (File too large)"),
        (
            "load",
            "rank 1: {folder}/test/checkpoint-00000001/engine/rank-00001-of-00002.safetensors: truncated",
        ),
    ],
)
def test_a_failure_on_one_rank_is_raised_at_once(saved: Path, tmp_path: Path, kind: str, says: str) -> None:
    """The other rank waits in a collective, which times out only after half an hour."""
    folder = saved if kind == "load" else tmp_path
    with pytest.raises(ProcessRaisedException) as raised:
        on_ranks(2, failing, kind, str(folder))
    assert f"RankError: {says.format(folder=folder)}" in str(raised.value)
