"""The golden checkpoint as a model."""

from __future__ import annotations

from typing import Any

import pytest

from lladav.model.llada_v import LLaDAV
from tests.lladav.build import golden_model


@pytest.fixture(scope="session")
def released(golden: Any) -> LLaDAV:
    """The golden checkpoint; tests must not change its weights."""
    return golden_model(golden.folder, golden.special_ids)
