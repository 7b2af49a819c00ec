"""Loading, saving and comparing settings.

``conf/base.yaml`` <- group files (``stage= model= data= cluster=``) <- ``data.rescale`` of the stage <-
dotted overrides. Imports neither torch nor ray: entry points answer a mistake at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError, OmegaConfBaseException, ValidationError

from lladav.config.fingerprint import flatten, format_value
from lladav.config.introspection import accepted_values, check_keys, choices_hint
from lladav.config.schema import Config
from lladav.config.validation import check
from lladav.errors import UserError

GROUPS = ("stage", "model", "data", "cluster")
ALL_STAGES = "all"

_packaged = Path(__file__).parents[1] / "conf"
CONF = _packaged if _packaged.is_dir() else Path(__file__).resolve().parents[3] / "conf"
"""Folder of the YAML files: beside the package when installed, else in the source tree."""


class ConfigLayer(NamedTuple):
    """A part of the tree and where it is from, as the beginning of a message about it."""

    where: str
    values: dict[str, Any]


def load(overrides: Sequence[str] = (), conf: Path = CONF) -> Config:
    """The checked settings that ``group=choice`` and ``section.key=value`` arguments give.

    Raises ``UserError`` for whatever is unknown, of the wrong type or does not fit together.
    """
    chosen, dotted = _split(overrides)
    files = [_layer_of(file, conf) for file in _group_files(chosen, conf)]
    typed = [ConfigLayer("", _nested(key, text)) for key, text in dotted.items()]
    return _resolved([*files, *_rescale(files + typed), *typed])


def save(config: Config, path: Path) -> None:
    """Write the resolved settings as YAML; ``load_saved`` gives an equal config back."""
    path.write_text(to_yaml(config), encoding="utf-8")


def load_saved(path: Path) -> Config:
    """Read what ``save`` wrote."""
    return _resolved([ConfigLayer(f"{path}: ", read_yaml(path))])


def to_yaml(config: Config) -> str:
    """The settings as YAML text."""
    return OmegaConf.to_yaml(OmegaConf.structured(config))


def curriculum(conf: Path = CONF) -> list[str]:
    """Stages of the curriculum, each after the one it starts from; ablations left out."""
    stages = [read_yaml(conf / "stage" / f"{name}.yaml")["stage"] for name in group_choices("stage", conf)]
    waiting = {stage["name"]: stage.get("starts_from") for stage in stages if not stage.get("ablation")}
    order: list[str] = []
    while ready := [name for name, before in waiting.items() if before is None or before in order]:
        order += ready
        waiting = {name: before for name, before in waiting.items() if name not in ready}
    if waiting:
        raise UserError(f"conf/stage: what {', '.join(waiting)} start from never comes; mend starts_from")
    return order


def expand_stages(overrides: Sequence[str], conf: Path = CONF) -> list[list[str]]:
    """One list of overrides for each stage that ``stage=all`` stands for; other overrides alone."""
    rest = [o for o in overrides if o != f"stage={ALL_STAGES}"]
    if len(rest) == len(overrides):
        return [rest]
    if other := next((o for o in rest if o.startswith("stage=")), None):
        raise UserError(f"stage={ALL_STAGES} {other}: not both; leave one out")
    if any(o.startswith("train.run=") for o in rest):
        raise UserError("train.run: names a single run; with stage=all leave it out or set train.storage")
    return [[f"stage={name}", *rest] for name in curriculum(conf)]


def run_name(config: Config, stage: str | None = None) -> str:
    """Folder of this run in ``train.storage``; or of another stage's default run on this model and data."""
    default = f"{stage or config.stage.name}-{config.model.name}-{config.data.name}"
    return default if stage else config.train.run or default


def group_choices(group: str, conf: Path = CONF) -> list[str]:
    """Names of the files of a group."""
    return sorted(file.stem for file in (conf / group).glob("*.yaml"))


def _split(overrides: Sequence[str]) -> tuple[dict[str, str], dict[str, str]]:
    """Group choices and dotted keys, values as typed."""
    chosen, dotted = {}, {}
    for override in overrides:
        key, equals, value = override.partition("=")
        if key.startswith("-") or not all(key.split(".")) or not equals:
            raise UserError(f"{override}: not a setting; write key=value, as in train.max_steps=50")
        (chosen if key in GROUPS else dotted)[key] = value
    return chosen, dotted


def _group_files(chosen: Mapping[str, str], conf: Path) -> list[Path]:
    defaults = read_yaml(conf / "base.yaml").get("groups", {})
    return [_group_file(group, {**defaults, **chosen}[group], conf) for group in GROUPS]


def _group_file(group: str, name: str, conf: Path) -> Path:
    known = group_choices(group, conf)
    if name not in known:
        offered = [*known, ALL_STAGES] if group == "stage" else known
        raise UserError(f"{group}={name}: no such {group}{choices_hint(name, offered)}")
    return conf / group / f"{name}.yaml"


def read_yaml(file: Path) -> dict[str, Any]:
    """A file of settings as it stands; ``UserError`` where there is none or it is not a mapping."""
    try:
        tree = OmegaConf.to_container(OmegaConf.load(file))
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from None
    except yaml.YAMLError as error:
        raise UserError(f"{file}: not YAML ({' '.join(str(error).split())})") from None
    if not isinstance(tree, dict):
        raise UserError(f"{file}: holds no mapping of keys to values")
    return {str(key): value for key, value in tree.items()}


def _layer_of(file: Path, conf: Path) -> ConfigLayer:
    return ConfigLayer(f"{file.relative_to(conf.parent)}: ", read_yaml(file))


def _nested(key: str, text: str) -> dict[str, Any]:
    """The tree that holds one dotted override."""
    fragment = OmegaConf.create()
    try:
        fragment.merge_with_dotlist([f"{key}={text}"])
    except (yaml.YAMLError, OmegaConfBaseException, UnicodeError):
        raise UserError(f"{key}={text}: not a YAML value; quote it") from None
    return _plain(fragment)


def _rescale(layers: Sequence[ConfigLayer]) -> Iterator[ConfigLayer]:
    """The keys of the stage that the data set asks for in place of the stage's own."""
    values = _stacked(layers)
    for stage, rescaled in values["data"].get("rescale", {}).items():
        layer = ConfigLayer(f"data.rescale.{stage}: ", {"stage": rescaled})
        check_keys(layer.values, layer.where)
        if stage == values["stage"]["name"]:
            yield layer


def _stacked(layers: Sequence[ConfigLayer]) -> dict[str, Any]:
    """The layers as one tree, later ones on top."""
    for where, values in layers:
        _refuse_other_keys(values, where)
        check_keys(values, where)
    stacked: dict[str, Any] = {}
    for _, values in layers:
        stacked = _on_top(stacked, values)
    return stacked


def _refuse_other_keys(value: Any, where: str) -> None:
    """Raise ``UserError`` where a mapping inside ``value`` has a key that is not text."""
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise UserError(f"{where}{key!r}: a key is text; put it in quotes")
        value = list(value.values())
    if isinstance(value, list):
        for element in value:
            _refuse_other_keys(element, where)


def _on_top(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    both = [k for k in above if isinstance(below.get(k), Mapping) and isinstance(above[k], Mapping)]
    return {**below, **above, **{k: _on_top(below[k], above[k]) for k in both}}


def _resolved(layers: Sequence[ConfigLayer]) -> Config:
    try:
        tree = OmegaConf.merge(OmegaConf.structured(Config), _stacked(layers))
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
    """Where the refused value is from, what it is, and what its key accepts."""
    path, _, index = str(error.full_key).rstrip("]").partition("[")
    holding = [layer for layer in layers if path in flatten(layer.values)]
    where, value = holding[-1].where, flatten(holding[-1].values)[path]
    refused = value[int(index)] if index else value
    if isinstance(error, InterpolationResolutionError):
        return f"{where}{path}={refused}: refers to no key; write the value, or the path of another key"
    return f"{where}{path}={format_value(refused)}: {accepted_values(path, refused)}"


def _plain(tree: DictConfig) -> dict[str, Any]:
    plain = OmegaConf.to_container(tree)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}
