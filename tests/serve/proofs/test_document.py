"""Schemathesis against the OpenAPI document: what fits it, and much that does not, is answered as it says."""

from __future__ import annotations

from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.specs.openapi.checks import positive_data_acceptance

pytestmark = [pytest.mark.proof, pytest.mark.slow]
SHORT, LONG = 15, 300
"""Requests for each operation."""


def test_answers_are_as_the_document_says(api: str, full: bool) -> None:
    schema = schemathesis.openapi.from_url(f"{api}/openapi.json")
    count = 0
    for result in schema.get_all_operations():
        count += 1
        operation = result.ok()
        if operation.path == "/metrics":  # gathers from a Ray, and none is here
            continue

        @given(case=operation.as_strategy())
        @settings(
            max_examples=LONG if full else SHORT,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            derandomize=not full,
        )
        def ask(case: Any) -> None:
            case.call_and_validate(excluded_checks=[positive_data_acceptance])  # limits are not in schemas

        ask()
    assert count >= 7
