"""Decoding settings of a benchmark task, by the names of the released evaluation, LMMs-Eval and the engine.

Settings come in layers, and a later layer overrides an earlier one: a file of ``conf/evaluation``, the
arguments of the model, the generation settings of the task. A name or a value that the engine cannot honour
is an error.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from lladav.config.introspection import choices_hint, nearest
from lladav.config.loader import CONF, group_choices, read_yaml
from lladav.decoding.unmasking import given_rule_parameters, rule_parameters
from lladav.errors import UserError
from lladav.generation import option_parsers

GROUP = "evaluation"
"""Folder of ``conf`` with settings by task."""
RENAMED = {
    "gen_length": "max_tokens",
    "gen_steps": "steps",
    "cfg": "guidance",
    "prefix_refresh_interval": "refresh_interval",
    "stop_sequences": "until",
}
"""Options of the engine by their names in the released evaluation and in tasks of LMMs-Eval."""
WITHOUT_EFFECT: dict[str, tuple[Any, ...]] = {
    "remasking": ("low_confidence",),
    "num_beams": (1,),
    "image_aspect_ratio": ("original",),
    "n": (1,),
}
"""Settings that ask for what the engine does anyway, with the values that do so."""
SUFFIXES = {"no_think": " /no_think", "think": " /think"}
"""Text behind the question, by ``think_mode``."""
ALL_CANDIDATES = (0, -1)
"""Values of ``top_k`` that exclude no candidate."""


@dataclass(frozen=True)
class TaskSettings:
    """How the requests of a task are decoded."""

    options: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of ``DecodingOptions.for_chat``."""
    until: tuple[str, ...] = ()
    """Texts that end an answer, besides eot."""
    suffix: str = ""
    """Text behind the question."""


class SettingsLayer(NamedTuple):
    """Settings by name, and where they come from, for errors."""

    where: str
    values: Mapping[str, Any]


def resolve(layers: Sequence[SettingsLayer]) -> TaskSettings:
    """Merge layers, later ones over earlier ones; stop texts add up. Raises ``UserError``.

    An unmasking rule replaces the rule of earlier layers. ``max_new_tokens``, which nearly every task of
    LMMs-Eval sets for autoregressive models, is the length of the canvas only if no layer sets
    ``gen_length``.
    """
    merged: dict[str, Any] = {}
    for layer in layers:
        own = checked(layer)
        if given_rule_parameters(own):
            merged = {name: value for name, value in merged.items() if name not in rule_parameters()}
        merged |= {**own, "until": (*merged.get("until", ()), *own.get("until", ()))}
    until, suffix = merged.pop("until", ()), merged.pop("think_mode", "")
    if (longest := merged.pop("max_new_tokens", None)) is not None:
        merged.setdefault("max_tokens", longest)
    return TaskSettings(_with_sampling(merged), until, suffix)


def checked(layer: SettingsLayer) -> dict[str, Any]:
    """The settings of a layer by the engine's names, with parsed values. Raises ``UserError``."""
    found: dict[str, Any] = {}
    for given, value in layer.values.items():
        name = RENAMED.get(given, given)
        if value is None:  # as if it were left out
            continue
        if name in WITHOUT_EFFECT:
            _check_without_effect(layer.where, name, value)
        elif name in found:
            raise UserError(f"{layer.where}: {given} and {name} are the same setting; keep one of them")
        else:
            found[name] = _parsed(layer.where, given, name, value)
    return found


def known_names() -> list[str]:
    """Every name that a layer may have."""
    return [*PARSERS, *RENAMED, *WITHOUT_EFFECT]


def file_layer(settings: str, task: str, conf: Path = CONF) -> SettingsLayer:
    """The settings of a task in a file of ``conf/evaluation``; raises ``UserError`` if it has none."""
    names = group_choices(GROUP, conf)
    if settings not in names:
        raise UserError(f"settings={settings}: no such file in conf/{GROUP}{choices_hint(settings, names)}")
    file = conf / GROUP / f"{settings}.yaml"
    tasks = read_yaml(file)
    if task not in tasks:
        raise UserError(
            f"settings={settings}: has no settings for task {task}; leave settings out and set gen_length, "
            f"block_length and gen_steps, or add the task to {file}"
        )
    return SettingsLayer(f"conf/{GROUP}/{settings}.yaml, {task}", tasks[task])


def _check_without_effect(where: str, name: str, value: Any) -> None:
    if value not in WITHOUT_EFFECT[name]:
        only = " or ".join(map(str, WITHOUT_EFFECT[name]))
        raise UserError(f"{where}: {name}={value} is not supported; use {only}, or leave it out")


def _parsed(where: str, given: str, name: str, value: Any) -> Any:
    if name not in PARSERS:
        guess = nearest(given, known_names())
        hint = f"did you mean {guess}?" if guess else "remove it"
        raise UserError(f"{where}: {given}: unknown decoding setting; {hint}")
    try:
        return PARSERS[name](value)
    except (ValueError, TypeError, argparse.ArgumentTypeError):
        raise UserError(f"{where}: {given}={value!r}: not a value of this setting; correct it") from None


def _with_sampling(merged: Mapping[str, Any]) -> dict[str, Any]:
    """The options with ``do_sample`` applied: false is greedy, whatever the temperature says.

    Without sampling ``top_p`` and ``top_k`` have no effect; tasks set them all the same, even to 0.
    """
    options = dict(merged)
    sampled, top_k = options.pop("do_sample", None), options.pop("top_k", 0)
    temperature = options.get("temperature", 1.0 if sampled else 0.0)
    if sampled is False or temperature == 0:
        options.pop("top_p", None)
        return {**options, "temperature": 0.0}
    limits = {} if top_k in ALL_CANDIDATES else {"top_k": top_k}
    return {**options, **limits, "temperature": temperature}


def _texts(value: Any) -> tuple[str, ...]:
    texts = (value,) if isinstance(value, str) else tuple(value)
    if not all(isinstance(text, str) for text in texts):
        raise ValueError(value)
    return tuple(text for text in texts if text)


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError(value)
    return value


def _suffix(value: Any) -> str:
    if value not in SUFFIXES:
        raise ValueError(value)
    return SUFFIXES[value]


def _as_text(parse: Callable[[str], Any]) -> Callable[[Any], Any]:
    return lambda value: parse(str(value))


PARSERS: dict[str, Callable[[Any], Any]] = {
    **{name: _as_text(parse) for name, parse in option_parsers().items()},
    "until": _texts,
    "think_mode": _suffix,
    "max_new_tokens": _as_text(int),
    "do_sample": _flag,
    "allow_eos": _flag,
    "top_k": _as_text(int),
}
"""Parsers of the options of the engine, and of settings that become options, stop texts or a suffix."""
