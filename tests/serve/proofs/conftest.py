from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session")
def quiet() -> Iterator[None]:
    """No line in the log for each request: what a proof prints stays readable."""
    log = logging.getLogger("ray.serve.requests")
    before = log.level
    log.setLevel(logging.WARNING)
    yield
    log.setLevel(before)
