from __future__ import annotations

import pytest


@pytest.fixture(scope="module")
def takes_minutes(full: bool) -> None:
    """Skips a test without ``--full``."""
    if not full:
        pytest.skip("takes minutes; --full runs it")
