"""Two drivers never write to one run's folder; the claim of a dead driver expires."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lladav.errors import UserError
from lladav.storage import location, make_folder
from train.checkpoints.run_folder import Run
from train.checkpoints.run_lock import Owner, claim_for, claimed, owner_of

LEASE = 1.5
HOLDER = """
import sys, time
sys.path[:0] = [".", "platform"]
from lladav.storage import location
from train.checkpoints.run_lock import claimed
with claimed(location(sys.argv[1]), float(sys.argv[2])):
    print("owned", flush=True)
    time.sleep(600)
"""


@pytest.fixture(params=["local", "s3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A run's folder on each kind of storage."""
    return str(tmp_path / "run") if request.param == "local" else request.getfixturevalue("bucket")


@pytest.fixture
def holder(root: Path, folder: str) -> Iterator[subprocess.Popen[str]]:
    """Another process that owns the folder."""
    command = [sys.executable, "-c", HOLDER, folder, str(LEASE)]
    process = subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "owned\n"
    yield process
    process.kill()
    process.wait()


def test_the_claim_is_released_at_the_end(folder: str) -> None:
    for _ in range(2):
        with claimed(location(folder), LEASE) as owner:
            assert owner_of(location(folder)) == owner
            assert owner.pid == os.getpid()
        assert owner_of(location(folder)) is None


def test_a_second_driver_is_refused_in_one_line_that_names_the_first(
    folder: str, holder: subprocess.Popen[str]
) -> None:
    with pytest.raises(UserError) as refused, claimed(location(folder), LEASE):
        pass
    line = str(refused.value)
    assert line.startswith(f"{folder}: in use by process {holder.pid} on ")
    assert line.endswith("; stop it, or set train.run=<new name>")
    assert "\n" not in line
    owner = owner_of(location(folder))
    assert owner is not None
    assert owner.pid == holder.pid


def test_the_claim_of_an_owner_that_stopped_renewing_expires(
    folder: str, holder: subprocess.Popen[str], capsys: pytest.CaptureFixture[str]
) -> None:
    holder.send_signal(signal.SIGSTOP)  # it renews nothing, like a dead process on another machine
    begin = time.monotonic()
    with claimed(location(folder), LEASE) as owner:
        assert time.monotonic() - begin >= LEASE
        assert owner_of(location(folder)) == owner
    assert f"locked by process {holder.pid} on " in (output := capsys.readouterr().out)
    assert "waiting up to 2 s to see if it is alive" in output


def test_the_claim_of_a_killed_owner_on_this_machine_is_free_at_once(root: Path, folder: str) -> None:
    command = [sys.executable, "-c", HOLDER, folder, "600"]
    process = subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    process.kill()
    process.wait()
    with claimed(location(folder), 600) as owner:
        assert owner.pid == os.getpid()


def test_an_owner_that_lost_its_claim_commits_nothing(folder: str) -> None:
    storage, name = folder.rsplit("/", 1)
    with claimed(location(folder), LEASE) as owner:
        run = Run(storage, name, owner.token)
        make_folder(run.checkpoint_path(1))
        run.commit(1, 2, 1)
        with pytest.raises(UserError, match=r"taken over by process \d+ on .*; nothing is committed"):
            Run(storage, name, "the token of an earlier claim").commit(2, 2, 1)
    assert run.committed_step() == 1


def test_one_of_several_processes_takes_over_a_dead_claim(bucket: str) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    dead = claim_for(location(bucket), Owner(pid=ended.pid), 600)
    assert dead.acquire()
    claims = [claim_for(location(bucket), Owner(), 600) for _ in range(4)]
    ready = threading.Barrier(4)
    taken: list[int] = []

    def contend(number: int) -> None:
        ready.wait()
        if claims[number].acquire():
            taken.append(number)

    threads = [threading.Thread(target=contend, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (winner,) = taken
    claims[winner].release()
