"""A field of the schema declares the values that it accepts and whether a run depends on it."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import pytest
from omegaconf import OmegaConf

from lladav.config.setting import SettingInfo, setting


@dataclass
class Example:
    """Settings with each kind of limit."""

    width: int = setting(4, above=0)
    queue_length: int = setting(4, minimum=0, non_semantic="affects speed only")
    fraction: float = setting(0.5, minimum=0, maximum=1)
    seed: int = setting(1, minimum=0, maximum=9)
    name: str = setting("a", is_file_name=True)
    extras: dict[str, int] = setting(factory=dict)


INFOS: dict[str, SettingInfo] = {field.name: field.metadata["setting"] for field in fields(Example)}


def test_a_declared_setting_is_an_ordinary_field() -> None:
    assert OmegaConf.to_object(OmegaConf.structured(Example)) == Example(4, 4, 0.5, 1, "a", {})


@pytest.mark.parametrize(
    ("name", "value", "line"),
    [
        ("width", 0, "must be above 0"),
        ("width", float("nan"), "must be above 0"),
        ("queue_length", -1, "must be 0 or more"),
        ("fraction", 1.5, "must be a fraction from 0 to 1"),
        ("seed", 10, "must be at most 9"),
        ("name", "a/b", "part of a folder's name; use letters, digits and . _ + -"),
    ],
)
def test_a_value_outside_the_limits_is_a_problem(name: str, value: Any, line: str) -> None:
    assert INFOS[name].problem(value) == line


def test_a_value_within_the_limits_is_no_problem() -> None:
    accepted = {"width": 1, "queue_length": 0, "fraction": 1.0, "seed": 9, "name": "a-b.c", "extras": {}}
    assert all(INFOS[name].problem(value) is None for name, value in accepted.items())


def test_a_setting_is_semantic_unless_it_says_why_not() -> None:
    assert [name for name, info in INFOS.items() if info.non_semantic] == ["queue_length"]
