"""Any value of any key results in settings or a one-line error, never in a traceback."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path
from typing import Any

import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lladav.config import loader as config
from lladav.config.introspection import all_keys
from lladav.errors import UserError

PATHS = [
    *(key.path.replace("<name>", "si") for key in all_keys()),
    *("data.rescale.si", "data.rescale.pretrain", "data.rescale.pretrain.lr", "data.rescale.pretrain.name"),
    *config.GROUPS,
]
TYPED = """
    null ~ nan .nan .inf -.inf -1 0 1e400 99999999999999999999 true [] {} [[1],[2]] {a:1} [null] [a] [.nan]
    {1:2} ../x a/b \\ é☃ ${train.seed} ${nowhere} ??? !!python/object:os.system &a *a &a[*a] !!binary{}
    2020-01-01 0x10 1_000 [{}] {a:{b:{}}} - | % @ ` [1, x:y {null:1} \ud83d \x00 \x1b[31m
""".split()
NUMBERS = st.integers(-(10**20), 10**20) | st.floats() | st.sampled_from([0, -1, 2**63, math.inf, math.nan])
KEYS = st.text(max_size=3) | st.integers()
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(KEYS, inner, max_size=2),
    max_leaves=4,
)


def check(error: UserError) -> None:
    """The message is one printable line."""
    message = str(error)
    assert message.splitlines() == [message]
    message.encode()


@given(st.sampled_from(PATHS), st.sampled_from(TYPED) | st.text(max_size=8) | NUMBERS.map(str))
@settings(max_examples=120)
@example("stage.sources", "[{}]")
@example("train.warmup_ratio", "{}")
@example("train.betas", "${train.seed}")
@example("train.micro_batch", "1000000000000")
@example("stage.global_batch", "9999999999999999999")
def test_any_value_may_be_typed(path: str, text: str) -> None:
    try:
        config.load([f"{path}={text}"])
    except UserError as error:
        check(error)


@given(st.text(max_size=12))
@settings(max_examples=40)
def test_any_argument_may_be_typed(argument: str) -> None:
    try:
        config.load([argument])
    except UserError as error:
        check(error)


SAVED = yaml.safe_load(config.to_yaml(config.load()))


@given(st.sampled_from([key.path for key in all_keys() if "<" not in key.path]), VALUES)
@settings(max_examples=120)
@example("train.betas", [[1], [2]])
@example("data.rescale", {223923: {}})
@example("data.rescale", {"si": {"sources": [{1: 2}]}})
def test_any_value_may_be_in_a_file(path: str, value: Any) -> None:
    tree = changed(SAVED, path.split("."), value)
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        yaml.safe_dump(tree, file)
        file.flush()
        try:
            config.load_saved(Path(file.name))
        except UserError as error:
            check(error)


def changed(tree: dict[str, Any], path: list[str], value: Any) -> dict[str, Any]:
    """The tree with a replaced value at a path."""
    name, *rest = path
    return {**tree, name: changed(tree[name], rest, value) if rest else value}
