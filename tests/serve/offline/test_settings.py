"""Settings of a batch: those of a server with the same keys, fields of requests, and what is refused."""

from __future__ import annotations

import pytest

from lladav.config.loader import group_choices
from lladav.errors import UserError
from serve.offline.settings import load_batch
from serve.settings import load
from tests.serve.offline.settings import batch_settings

NEEDED = {"input": "in", "output": "out", "model": "m"}


@pytest.mark.parametrize("config", group_choices("serve"))
def test_settings_of_the_engine_are_those_of_the_server(config: str) -> None:
    batch = load_batch({**NEEDED, "config": config, "engine.max_rows": "3"})
    server = load({"config": config, "model": "m", "auth": "off", "engine.max_rows": 3})
    for section in ("engine", "decoding", "dial", "media"):
        assert getattr(batch, section) == getattr(server, section)
    assert batch.limits.max_tokens == server.limits.max_tokens
    assert batch.limits.deadline_ms > server.limits.deadline_ms


def test_params_have_the_types_that_requests_need() -> None:
    params = batch_settings(params__temperature="0.5", params__stop="[a, b]", params__effort="fast").params
    assert params == {"temperature": 0.5, "stop": ["a", "b"], "effort": "fast"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": "m"}, "input: needs a value"),
        ({**NEEDED, "inputs": "x"}, "inputs: unknown setting; did you mean input?"),
        ({**NEEDED, "format": "csv"}, "format=csv"),
        ({**NEEDED, "part_rows": "0"}, "part_rows=0"),
        ({**NEEDED, "params.stop": "[a"}, "params.stop=[a: not a YAML value"),
        ({**NEEDED, "max_tokens": "3"}, "max_tokens: a field of requests; write params.max_tokens"),
        ({**NEEDED, "engine.max_row": "3"}, "engine.max_row: unknown setting; did you mean engine.max_rows?"),
    ],
)
def test_mistakes_are_one_line(arguments: dict[str, str], message: str) -> None:
    with pytest.raises(UserError) as error:
        load_batch(arguments)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)
