"""Loading and saving settings.

Later layers replace values of earlier ones: the files of the groups (``stage= model= data= cluster=``,
defaults in ``conf/base.yaml``), ``data.rescale`` of the stage, dotted overrides. This module imports neither
torch nor ray, so that commands report a mistake at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, get_origin

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError, OmegaConfBaseException, ValidationError

from lladav.config.introspection import (
    check_keys,
    choices_hint,
    flatten,
    format_value,
    kind_of,
    type_problem,
)
from lladav.config.schema import RELEASED, Config
from lladav.config.validation import check
from lladav.errors import UserError

GROUPS = ("stage", "model", "data", "cluster")
ALL_STAGES = "all"

_packaged = Path(__file__).parents[1] / "conf"
CONF = _packaged if _packaged.is_dir() else Path(__file__).resolve().parents[3] / "conf"
"""Folder of the YAML files: inside the package if it is installed, else in the source tree."""


class ConfigLayer(NamedTuple):
    """Some values of the tree, and where they are from: the beginning of an error line about them."""

    where: str
    values: dict[str, Any]


def load(overrides: Sequence[str] = (), conf: Path = CONF) -> Config:
    """Return the checked settings for ``group=choice`` and ``section.key=value`` arguments.

    Raises ``UserError`` for an unknown key, a value of the wrong type or out of range, and settings that
    contradict each other.
    """
    chosen, dotted = _split(overrides)
    defaults = read_yaml(conf / "base.yaml").get("groups", {})
    names = {**defaults, **chosen}
    files = [_group_layer(group, names[group], conf) for group in GROUPS]
    typed = [ConfigLayer("", _nested(key, text)) for key, text in dotted.items()]
    unnamed = ConfigLayer("", {"data": {"name": names["data"]}})
    return _resolved([unnamed, *files, *_rescale(files + typed), *typed])


def save(config: Config, path: Path) -> None:
    """Write the resolved settings as YAML. ``load_saved`` returns an equal config."""
    path.write_text(to_yaml(config), encoding="utf-8")


def load_saved(path: Path) -> Config:
    """Read what ``save`` wrote."""
    return _resolved([ConfigLayer(f"{path}: ", read_yaml(path))])


def to_yaml(config: Config) -> str:
    """The settings as YAML text."""
    return OmegaConf.to_yaml(OmegaConf.structured(config))


def curriculum(conf: Path = CONF) -> list[str]:
    """Return the stages that build the model, each after the stage that it starts from.

    Ablations and stages that start from the released model are left out.
    """
    stages = [read_yaml(conf / "stage" / f"{name}.yaml")["stage"] for name in group_choices("stage", conf)]
    waiting = {stage["name"]: stage.get("starts_from") for stage in stages if not stage.get("ablation")}
    waiting = {name: before for name, before in waiting.items() if before != RELEASED}
    order: list[str] = []
    while ready := [name for name, before in waiting.items() if before is None or before in order]:
        order += ready
        waiting = {name: before for name, before in waiting.items() if name not in ready}
    if waiting:
        raise UserError(
            f"conf/stage: {', '.join(waiting)} start from a stage that never runs; correct starts_from"
        )
    return order


def stages_of(data: str, conf: Path = CONF) -> list[str]:
    """Stages that can be trained on a data set: it has all of their sources. Curriculum first, in order."""
    known = read_yaml(conf / "data" / f"{data}.yaml")["data"]["sources"]
    names = [*curriculum(conf), *group_choices("stage", conf)]
    sources = {name: read_yaml(conf / "stage" / f"{name}.yaml")["stage"]["sources"] for name in names}
    return [name for name in sources if set(sources[name]) <= set(known)]


def expand_stages(overrides: Sequence[str], conf: Path = CONF) -> list[list[str]]:
    """Return a list of overrides for each stage of ``stage=all``; without it, the overrides alone."""
    rest = [o for o in overrides if o != f"stage={ALL_STAGES}"]
    if len(rest) == len(overrides):
        return [rest]
    if other := next((o for o in rest if o.startswith("stage=")), None):
        raise UserError(f"stage={ALL_STAGES} {other}: not both; leave one out")
    if any(o.startswith("train.run=") for o in rest):
        raise UserError("train.run: names a single run; with stage=all leave it out or set train.storage")
    return [[f"stage={name}", *rest] for name in curriculum(conf)]


def run_name(config: Config, stage: str | None = None) -> str:
    """Return the name of this run, or of the default run of another stage with this model and data."""
    default = f"{stage or config.stage.name}-{config.model.name}-{config.data.name}"
    return default if stage else config.train.run or default


def group_choices(group: str, conf: Path = CONF) -> list[str]:
    """Return the names of the files of a group, sorted."""
    return sorted(file.stem for file in (conf / group).glob("*.yaml"))


def _split(overrides: Sequence[str]) -> tuple[dict[str, str], dict[str, str]]:
    """Split overrides into group choices and dotted keys. Values stay text."""
    chosen, dotted = {}, {}
    for override in overrides:
        key, equals, value = override.partition("=")
        if key.startswith("-") or not all(key.split(".")) or not equals:
            raise UserError(f"{override}: not a setting; write key=value, as in train.max_steps=50")
        (chosen if key in GROUPS else dotted)[key] = value
    return chosen, dotted


def _group_layer(group: str, name: str, conf: Path) -> ConfigLayer:
    known = group_choices(group, conf)
    if name not in known:
        offered = [*known, ALL_STAGES] if group == "stage" else known
        raise UserError(f"{group}={name}: no such {group}{choices_hint(name, offered)}")
    file = conf / group / f"{name}.yaml"
    return ConfigLayer(f"{file.relative_to(conf.parent)}: ", read_yaml(file))


def read_yaml(file: Path) -> dict[str, Any]:
    """Read one YAML file. Raises ``UserError`` if it cannot be read or is not a mapping."""
    try:
        tree = OmegaConf.to_container(OmegaConf.load(file))
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from None
    except yaml.YAMLError as error:
        raise UserError(f"{file}: not YAML ({' '.join(str(error).split())})") from None
    if not isinstance(tree, dict):
        raise UserError(f"{file}: holds no mapping of keys to values")
    return {str(key): value for key, value in tree.items()}


def _nested(key: str, text: str) -> dict[str, Any]:
    """Return one dotted override as a tree."""
    fragment = OmegaConf.create()
    try:
        fragment.merge_with_dotlist([f"{key}={text}"])
    except (yaml.YAMLError, OmegaConfBaseException, UnicodeError):
        raise UserError(f"{key}={text}: not a YAML value; quote it") from None
    return _plain(fragment)


def _rescale(layers: Sequence[ConfigLayer]) -> Iterator[ConfigLayer]:
    """Yield the stage's keys that the data set replaces."""
    values = _merged(layers)
    for stage, rescaled in values["data"].get("rescale", {}).items():
        layer = ConfigLayer(f"data.rescale.{stage}: ", {"stage": rescaled})
        check_keys(layer.values, layer.where)
        if stage == values["stage"]["name"]:
            yield layer


def _merged(layers: Sequence[ConfigLayer]) -> dict[str, Any]:
    """Merge layers; later layers replace values of earlier ones."""
    for where, values in layers:
        _check_keys_are_text(values, where)
        check_keys(values, where)
    tree: dict[str, Any] = {}
    for _, values in layers:
        tree = _merge_two(tree, values)
    return tree


def _check_keys_are_text(value: Any, where: str) -> None:
    """Raise ``UserError`` if a mapping inside ``value`` has a key that is not text."""
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise UserError(f"{where}{key!r}: a key is text; put it in quotes")
        value = list(value.values())
    if isinstance(value, list):
        for element in value:
            _check_keys_are_text(element, where)


def _merge_two(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    both = [k for k in above if isinstance(below.get(k), Mapping) and isinstance(above[k], Mapping)]
    return {**below, **above, **{k: _merge_two(below[k], above[k]) for k in both}}


def _derived(values: Mapping[str, Any]) -> ConfigLayer:
    """Defaults that follow other settings."""
    first = RELEASED if values.get("stage", {}).get("starts_from") == RELEASED else "language"
    weights = values.get("model", {}).get("weights", {}).get(first)
    tokenizer = {"tokenizer": weights} if weights else {}
    return ConfigLayer("", {"model": {"prediction": "${objective.kind}", **tokenizer}})


@cache
def _schema() -> DictConfig:
    """The types and defaults of all settings; merging copies it. Making it takes a third of a ``load``."""
    return OmegaConf.structured(Config)


def _resolved(layers: Sequence[ConfigLayer]) -> Config:
    values = _merged(layers)
    layers = [_derived(values), *layers]
    try:
        tree = OmegaConf.merge(_schema(), _merge_two(layers[0].values, values))
        missing = sorted(OmegaConf.missing_keys(tree))
        config = None if missing else OmegaConf.to_object(tree)
    except (ValidationError, InterpolationResolutionError) as error:
        raise UserError(_value_message(error, layers)) from None
    if missing:
        raise UserError(f"{missing[0]}: needs a value; add {missing[0]}=... or put it in the group's file")
    assert isinstance(config, Config)
    check(config)
    return config


def _value_message(error: OmegaConfBaseException, layers: Sequence[ConfigLayer]) -> str:
    """Return the error line for a value that OmegaConf refuses."""
    path, _, index = str(error.full_key).rstrip("]").partition("[")
    path = path or _list_that_refers(layers)
    holding = [layer for layer in layers if path in flatten(layer.values)]
    where, value = holding[-1].where, flatten(holding[-1].values)[path]
    refused = value[int(index)] if index else value
    if isinstance(error, InterpolationResolutionError):
        return f"{where}{path}={refused}: refers to no key; write the value, or the path of another key"
    return f"{where}{path}={format_value(refused)}: {type_problem(path, refused)}"


def _list_that_refers(layers: Sequence[ConfigLayer]) -> str:
    """The list that refers to another key: OmegaConf does not name it if that key holds no list."""
    values = {key: value for layer in layers for key, value in flatten(layer.values).items()}
    lists = (
        key for key, value in values.items() if isinstance(value, str) and get_origin(kind_of(key)) is list
    )
    return next(key for key in lists if values[key].startswith("${"))


def _plain(tree: DictConfig) -> dict[str, Any]:
    plain = OmegaConf.to_container(tree)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}
