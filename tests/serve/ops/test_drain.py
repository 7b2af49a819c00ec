"""Draining a node, without Ray: what is waited for, what is said, how long a pod may take."""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ray._private import ray_constants
from ray.serve._private import constants

from serve import drain
from serve.drain import PROXY_SECONDS, RAY_SECONDS, Node, grace_seconds, main
from serve.settings import ServeSettings, load
from tests.apart import apart

NOBODY = "0" * 55 + "1"
"""Id of a node that is not there: other nodes on this machine are left alone."""
TITLES = ["ray::ServeReplica:lladav:engine", "ray::ProxyActor", "ray::HAProxyManager"]


def settings_of(drain_seconds: float, deadline_ms: int) -> ServeSettings:
    return load({"model": "m", "engine.drain_seconds": drain_seconds, "limits.deadline_ms": deadline_ms})


@contextlib.contextmanager
def process(title: str) -> Iterator[subprocess.Popen[bytes]]:
    """A child of this process under a title."""
    child = subprocess.Popen([title, "60"], executable="/bin/sleep")
    try:
        yield child
    finally:
        child.kill()
        child.wait()


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch) -> Node:
    """A node whose raylet is this process, and a Ray that agrees to drain it."""
    monkeypatch.setattr(drain, "_ask", lambda *_: None)
    return Node(psutil.Process(), NOBODY, "127.0.0.1:1", is_head=False)


def drained_in_vain() -> list[str]:
    """What draining by a Ray that does not answer prints."""
    with contextlib.redirect_stdout(io.StringIO()) as said:
        drain.drain(Node(psutil.Process(), NOBODY, "127.0.0.1:1", is_head=False), 3)
    return said.getvalue().splitlines()


class TestWaiting:
    @pytest.mark.parametrize("title", TITLES)
    def test_what_serves_is_waited_for(
        self, title: str, node: Node, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with process(title) as child, process("ray::IDLE"):
            timer = threading.Timer(0.5, lambda: (child.kill(), child.wait()))
            timer.start()
            drain.drain(node, 30)
            assert child.poll() is not None
            timer.join()
        first, last = capsys.readouterr().out.splitlines()
        assert first == f"node {NOBODY} drains; serving: {title} 60"
        assert last.endswith("s: nothing serves here")

    def test_the_time_is_kept(self, node: Node, capsys: pytest.CaptureFixture[str]) -> None:
        with process(TITLES[0]) as child:
            drain.drain(node, 0.5)
            assert child.poll() is None
        assert f"s: serving: {TITLES[0]}" in capsys.readouterr().out.splitlines()[-1]

    def test_a_node_without_replicas_is_drained_at_once(
        self, node: Node, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with process("ray::IDLE"):
            drain.drain(node, 30)
        _, *others = capsys.readouterr().out.splitlines()
        assert [line.split(": ")[1] for line in others] == ["nothing serves here"]

    def test_a_node_that_is_gone_serves_nothing(self) -> None:
        with process("raylet") as child:
            raylet = psutil.Process(child.pid)
        assert Node(raylet, NOBODY, "127.0.0.1:1", is_head=False).serving() == []

    def test_ray_is_asked_again(
        self, node: Node, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        answers = ["it is starting", "it is starting", None]
        monkeypatch.setattr(drain, "_ask", lambda *_: answers.pop(0))
        monkeypatch.setattr(drain, "AGAIN_SECONDS", 0.01)
        drain.drain(node, 30)
        assert answers == []
        said = capsys.readouterr().out.splitlines()
        assert said[:2] == ["Ray did not take it: it is starting"] * 2
        assert said[2].startswith(f"node {NOBODY} drains")

    def test_a_ray_that_does_not_answer_is_told(self) -> None:
        first, *_, last = apart(drained_in_vain, RAY_gcs_rpc_server_connect_timeout_s="1")
        assert first.startswith("Ray did not take it: ")
        assert last == "Ray has not agreed to drain the node in time"


class Raylet:
    """What ``psutil`` tells about a raylet."""

    def __init__(self, node_id: str, *more: str) -> None:
        self._told = ["raylet", f"--node_id={node_id}", "--gcs-address=10.0.0.1:6379", *more]

    def cmdline(self) -> list[str]:
        return self._told


class Gone(Raylet):
    def cmdline(self) -> list[str]:
        raise psutil.NoSuchProcess(1)


class TestChoosing:
    @pytest.fixture
    def drained(self, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, float]]:
        """Nodes, addresses and seconds that are drained."""
        asked: list[tuple[str, str, float]] = []
        monkeypatch.setattr(drain, "drain", lambda node, s: asked.append((node.id, node.gcs, s)))
        return asked

    def running(self, monkeypatch: pytest.MonkeyPatch, *raylets: Any) -> None:
        found = drain.nodes_of(raylets)
        monkeypatch.setattr(drain, "nodes", lambda: found)

    def test_the_node_of_this_machine(
        self, drained: list[tuple[str, str, float]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.running(monkeypatch, Gone("a"), Raylet("b"))
        main(["--seconds", "430"])
        assert drained == [("b", "10.0.0.1:6379", 430)]

    def test_one_of_several(
        self, drained: list[tuple[str, str, float]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.running(monkeypatch, Raylet("a"), Raylet("b"))
        main(["--seconds=5", "--node-id=a"])
        assert [node for node, *_ in drained] == ["a"]

    def test_several_without_a_choice(
        self,
        drained: list[tuple[str, str, float]],
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        self.running(monkeypatch, Raylet("b"), Raylet("a"))
        assert refusal(["--seconds=5"], capsys) == (
            "error: 2 Ray nodes are on this machine; choose one by --node-id: a, b\n"
        )
        assert drained == []

    @pytest.mark.parametrize(
        ("raylets", "said"), [([], "no Ray node runs here"), ([Raylet("a", "--head")], "this is Ray's head")]
    )
    def test_nothing_to_drain(
        self,
        raylets: list[Raylet],
        said: str,
        drained: list[tuple[str, str, float]],
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        self.running(monkeypatch, *raylets)
        main(["--seconds=5"])
        assert capsys.readouterr().out.startswith(said)
        assert drained == []


def refusal(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize("seconds", ["0", "-5", "1.5", "x", "", "1e3"])
def test_seconds_are_whole(seconds: str, capsys: pytest.CaptureFixture[str]) -> None:
    said = refusal([f"--seconds={seconds}"], capsys)
    assert said.startswith(f"error: argument --seconds: {seconds!r} is no number of whole seconds")
    assert said.count("\n") == 1


@pytest.mark.parametrize("arguments", [[], ["--seconds"], ["--seconds=5", "more"]])
def test_other_arguments_are_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert refusal(arguments, capsys).count("\n") == 1


def test_the_command_runs_as_a_hook_does(root: Path) -> None:
    command = [sys.executable, "-m", "serve.drain", "--seconds", "5", "--node-id", NOBODY]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout == "no Ray node runs here any more; nothing to drain\n"


class TestGrace:
    def test_replicas_or_the_proxy_take_longest(self) -> None:
        assert grace_seconds(settings_of(300, 60_000), 120) == (430, 475)
        assert grace_seconds(settings_of(60, 300_000), 20) == (345, 390)

    @given(st.floats(0.1, 3600), st.integers(1, 3_600_000), st.floats(0, 3600))
    def test_no_replica_is_stopped_before_its_replacement_can_be_up(
        self, drain_seconds: float, deadline_ms: int, start: float
    ) -> None:
        """Serve stops it ``drain_seconds`` before the deadline."""
        grace = grace_seconds(settings_of(drain_seconds, deadline_ms), start)
        assert grace.hook - drain_seconds > start
        assert grace.hook > constants.PROXY_MIN_DRAINING_PERIOD_S + deadline_ms / 1000
        assert grace.pod > grace.hook

    def test_ray_takes_no_longer_than_is_added_for_it(self) -> None:
        assert constants.PROXY_MIN_DRAINING_PERIOD_S + constants.PROXY_DRAIN_CHECK_PERIOD_S <= PROXY_SECONDS
        assert ray_constants.RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S < RAY_SECONDS
