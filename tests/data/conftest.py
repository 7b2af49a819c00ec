"""Fixtures of the data tests: the tokenizer of the golden vectors."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import Golden


@pytest.fixture
def tokenizer(golden: Golden) -> Path:
    """Folder of a small tokenizer with LLaDA's special tokens."""
    return golden.folder / "tokenizer"
