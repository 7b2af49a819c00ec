"""Loading, saving and comparing settings.

``conf/base.yaml`` <- group files (``stage= model= data= cluster=``) <- ``data.rescale`` of the stage <- dotted overrides.
Imports neither torch nor ray: entry points answer a mistake at once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lladav.config_checks import check
from lladav.config_identity import differences, flat, identity, refuse_change, shown
from lladav.config_keys import choose_from, refuse_unknown, why_refused
from lladav.errors import UserError
from lladav.schema import Config

__all__ = [
    "CONF",
    "GROUPS",
    "chain",
    "differences",
    "expand",
    "group_choices",
    "identity",
    "load",
    "main_arguments",
    "one_line_errors",
    "read",
    "refuse_change",
    "run_name",
    "save",
    "to_yaml",
]

GROUPS = ("stage", "model", "data", "cluster")
ALL_STAGES = "all"

_packaged = Path(__file__).parent / "conf"
CONF = _packaged if _packaged.is_dir() else Path(__file__).resolve().parents[2] / "conf"
"""Folder of the YAML files: beside the package when installed, else in the source tree."""


def load(overrides: Sequence[str] = (), conf: Path = CONF) -> Config:
    """The checked settings that ``group=choice`` and ``section.key=value`` arguments give.

    Raises ``UserError`` for whatever is unknown, of the wrong type or does not fit together.
    """
    chosen, dotted = _split(overrides)
    tree = OmegaConf.structured(Config)
    for file in _group_files(chosen, conf):
        tree = _merged(tree, _read_yaml(file), f"{file.relative_to(conf.parent)}: ")
    rescaled = _rescaled(_overridden(tree, dotted))
    return _finished(_overridden(rescaled, dotted))


def save(config: Config, path: Path) -> None:
    """Write the resolved settings as YAML; ``read`` gives an equal config back."""
    path.write_text(to_yaml(config), encoding="utf-8")


def read(path: Path) -> Config:
    """Read what ``save`` wrote."""
    return _finished(_merged(OmegaConf.structured(Config), _read_yaml(path), f"{path}: "))


def to_yaml(config: Config) -> str:
    """The settings as YAML text."""
    return OmegaConf.to_yaml(OmegaConf.structured(config))


def chain(conf: Path = CONF) -> list[str]:
    """Stages of the curriculum, each after the one it starts from; ablations left out."""
    stages = {
        name: _read_yaml(_group_file("stage", name, conf))["stage"] for name in group_choices("stage", conf)
    }
    waiting = {name: stage.get("starts_from") for name, stage in stages.items() if not stage.get("ablation")}
    order: list[str] = []
    while waiting:
        ready = [name for name, before in waiting.items() if before is None or before in order]
        if not ready:
            raise UserError(
                f"conf/stage: {', '.join(waiting)} start from stages that never come; mend starts_from"
            )
        order += ready
        waiting = {name: before for name, before in waiting.items() if name not in ready}
    return order


def expand(overrides: Sequence[str], conf: Path = CONF) -> list[list[str]]:
    """One list of overrides for each stage that ``stage=all`` stands for; other overrides alone."""
    rest = [o for o in overrides if o != f"stage={ALL_STAGES}"]
    if len(rest) == len(overrides):
        return [rest]
    if any(o.startswith("train.run=") for o in rest):
        raise UserError(
            "train.run names a single run; leave it out with stage=all, or choose a train.storage"
        )
    return [[f"stage={name}", *rest] for name in chain(conf)]


def run_name(config: Config, stage: str | None = None) -> str:
    """Folder in ``train.storage`` of this run, or of the default run of another stage on the same model and data."""
    default = f"{stage or config.stage.name}-{config.model.name}-{config.data.name}"
    return default if stage else config.train.run or default


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Turn a ``UserError`` into its one line on stderr and exit code 2."""
    try:
        yield
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def main_arguments(arguments: Sequence[str], doc: str = "") -> list[Config]:
    """The settings of each run that an entry's arguments ask for: several for ``stage=all``, else one.

    ``--help`` and ``print=true`` print and exit with 0; a mistake exits with 2 and one line on stderr.
    """
    from lladav.config_help import help_text

    with one_line_errors():
        overrides = [a for a in arguments if a not in ("-h", "--help", "print=true")]
        if len(overrides) < len(arguments) and "print=true" not in arguments:
            _print_and_exit(help_text(overrides, doc))
        configs = [load(each) for each in expand(overrides)]
        if "print=true" in arguments:
            _print_and_exit("---\n".join(to_yaml(config) for config in configs).rstrip())
        return configs


def _print_and_exit(text: str) -> NoReturn:
    try:
        print(text, flush=True)
    except BrokenPipeError:  # as in "--help | head"; keep the interpreter from flushing once more
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    raise SystemExit(0)


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
    defaults = _read_yaml(conf / "base.yaml").get("groups", {})
    return [_group_file(group, {**defaults, **chosen}[group], conf) for group in GROUPS]


def _group_file(group: str, name: str, conf: Path) -> Path:
    known = group_choices(group, conf)
    if name not in known:
        offered = [*known, ALL_STAGES] if group == "stage" else known
        raise UserError(f"{group}={name}: no such {group}{choose_from(name, offered)}")
    return conf / group / f"{name}.yaml"


def _read_yaml(file: Path) -> dict[str, Any]:
    try:
        tree = OmegaConf.to_container(OmegaConf.load(file))
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from None
    except yaml.YAMLError as error:
        raise UserError(f"{file}: not YAML ({' '.join(str(error).split())})") from None
    if not isinstance(tree, dict):
        raise UserError(f"{file}: holds no mapping of keys to values")
    return {str(key): value for key, value in tree.items()}


def _overridden(tree: DictConfig, dotted: Mapping[str, str]) -> DictConfig:
    for key, text in dotted.items():
        fragment = OmegaConf.create()
        try:
            fragment.merge_with_dotlist([f"{key}={text}"])
        except (yaml.YAMLError, OmegaConfBaseException):
            raise UserError(f"{key}={text}: not a YAML value; quote it") from None
        tree = _merged(tree, _plain(fragment), "")
    return tree


def _rescaled(tree: DictConfig) -> DictConfig:
    """The stage with the keys that the data set asks for in its place."""
    for stage, values in _plain(tree.data.rescale).items():
        where = f"data.rescale.{stage}: "
        refuse_unknown({"stage": values}, where)
        if stage == tree.stage.name:
            tree = _merged(tree, {"stage": values}, where)
    return tree


def _merged(tree: DictConfig, values: Mapping[str, Any], where: str) -> DictConfig:
    refuse_unknown(values, where)
    try:
        merged = OmegaConf.merge(tree, values)
    except OmegaConfBaseException as error:
        raise UserError(where + _value_message(error, values)) from None
    assert isinstance(merged, DictConfig)
    return merged


def _value_message(error: OmegaConfBaseException, values: Mapping[str, Any]) -> str:
    path, value = _culprit(error, values)
    return f"{path}={shown(value)}: {why_refused(path, value)}"


def _culprit(error: OmegaConfBaseException, values: Mapping[str, Any]) -> tuple[str, Any]:
    """Path and value of what OmegaConf refused; where it does not say, the only leaf there is."""
    full_key = str(error.full_key or "") or next(iter(flat(values)))
    path, _, index = full_key.rstrip("]").partition("[")
    value: Any = values
    for part in path.split("."):
        value = value[part]
    return path, value[int(index)] if index else value


def _finished(tree: DictConfig) -> Config:
    try:
        missing = sorted(OmegaConf.missing_keys(tree))
        config = None if missing else OmegaConf.to_object(tree)
    except OmegaConfBaseException as error:
        raise UserError(f"{error.full_key}: {str(error).splitlines()[0]}") from None
    if missing:
        raise UserError(f"{missing[0]}: needs a value; add {missing[0]}=... or put it in the group's file")
    assert isinstance(config, Config)
    check(config)
    return config


def _plain(tree: DictConfig) -> dict[str, Any]:
    plain = OmegaConf.to_container(tree)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}
