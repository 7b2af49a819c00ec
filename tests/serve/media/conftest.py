"""The event loop of the media tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.serve.loops import Run, forever


@pytest.fixture(scope="module")
def run() -> Iterator[Run]:
    """Runs coroutines in one event loop, so that its workers are started once."""
    with forever() as submit:
        yield lambda coroutine: submit(coroutine).result(60)
