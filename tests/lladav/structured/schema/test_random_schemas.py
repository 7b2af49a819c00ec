"""Forms of random schemas against validators: no drawn value is invalid, no schema wrongly impossible."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import jsonschema_rs
import pytest

from lladav.structured.errors import SchemaError
from lladav.structured.forms import Schema
from lladav.structured.schema.reading import read_schema
from tests.lladav.structured.schema.drawing import Drawer, NotDrawnError
from tests.lladav.structured.schema.random_schemas import VALUES, SchemaMaker

BATCH = 50
DRAWN = 5


def read(schema: Any) -> Schema | SchemaError:
    try:
        return read_schema(schema).root
    except SchemaError as error:
        return error


@pytest.mark.parametrize("first", range(0, 8 * BATCH, BATCH))
def test_forms_agree_with_validators(first: int) -> None:
    drawn = 0
    for seed in range(first, first + BATCH):
        schema = SchemaMaker(seed).root()
        is_valid = jsonschema_rs.validator_for(schema).is_valid
        root = read(schema)
        if isinstance(root, SchemaError):
            assert root.code == "unsupported_schema" or not any(map(is_valid, VALUES)), json.dumps(schema)
            continue
        for value in draw(root, seed):
            drawn += 1
            assert is_valid(value), (seed, value)
            # The Python library follows references without a limit where a schema applies itself.
            if '"#"' not in json.dumps(schema):
                jsonschema.Draft202012Validator(schema).validate(value)
    assert drawn > BATCH


def draw(root: Schema, seed: int) -> list[Any]:
    """Values of the forms of a schema; fewer where a random string is not found."""
    drawer, values = Drawer(seed), []
    for _ in range(DRAWN):
        try:
            values.append(drawer.value(root))
        except NotDrawnError:
            continue
    return values
