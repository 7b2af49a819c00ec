"""A strict check of Ray Serve config files: ``python -m serve.config_check FILE...``.

Ray's schema silently ignores misspelt keys at most levels, and keeps a section with an invalid value as a
plain mapping. This check requires that every key at every level is a field of Ray's models, and that the
``args`` of our builder are valid settings. A file is a Serve config, or a KubeRay ``RayService`` with one in
``serveConfigV2``.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError
from ray.runtime_env import RuntimeEnv
from ray.serve.config import AutoscalingPolicy
from ray.serve.schema import ServeApplicationSchema, ServeDeploySchema

from lladav.config.cli import HELP_FLAGS, one_line_errors
from lladav.config.introspection import nearest
from lladav.errors import UserError
from serve.settings import ServeSettings, load

USAGE = "usage: python -m serve.config_check FILE...\n\nChecks Serve config files and RayService manifests."

BUILDERS = ("serve.app:build", "serve.app.build")
"""Import paths whose ``args`` are ``ServeSettings``."""

MODELS: dict[tuple[type[BaseModel], str], type[BaseModel]] = {
    (ServeApplicationSchema, "autoscaling_policy"): AutoscalingPolicy,
}
"""Fields that Ray annotates as plain mappings but reads as models."""

ConfigPath = tuple[str | int, ...]


def check(config: str | Mapping[str, Any]) -> None:
    """Raise ``UserError`` for the first part of a Serve config that Ray or our builder does not accept.

    The message names the path, the mistake and the nearest valid key. Values are validated by Ray's models,
    which import the modules that policies and request routers name. Checkpoints need not exist.
    """
    _check(ServeDeploySchema, _tree(config), ())


def main(files: Sequence[str]) -> None:
    """Check each file; the first mistake gives one line and exit code 2."""
    if HELP_FLAGS & set(files):
        print(USAGE)
        return
    with one_line_errors():
        if not files:
            raise UserError("no file given; use python -m serve.config_check FILE...")
        for file in files:
            _check_file(Path(file))
            print(f"{file}: ok")


def _check_file(file: Path) -> None:
    try:
        check(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise UserError(f"{file}: not text in UTF-8") from None
    except UserError as error:
        raise UserError(f"{file}: {error}") from None


def _tree(config: str | Mapping[str, Any]) -> Mapping[str, Any]:
    """The Serve config as a mapping, extracted from a RayService if it is one."""
    tree = _parsed(config) if isinstance(config, str) else config
    if not isinstance(tree, Mapping):
        raise UserError("not a mapping of keys to values; a Serve config starts with applications:")
    if tree.get("kind") != "RayService":
        return tree
    spec = tree.get("spec")
    if not isinstance(spec, Mapping) or not isinstance(spec.get("serveConfigV2"), str):
        raise UserError("spec.serveConfigV2: must be the Serve config as text; use serveConfigV2: |")
    return _tree(spec["serveConfigV2"])


def _parsed(text: str) -> Any:
    try:
        return yaml.load(text, _UniqueKeyLoader)
    except yaml.YAMLError as error:
        raise UserError(f"not YAML ({' '.join(str(error).split())})") from None


class _UniqueKeyLoader(yaml.SafeLoader):
    """Refuses duplicate keys; YAML would silently drop the first value."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        if duplicate := next((key for key in keys if keys.count(key) > 1), None):
            raise yaml.constructor.ConstructorError(
                None, None, f"duplicate key {duplicate}; remove one", node.start_mark
            )
        return super().construct_mapping(node, deep)


def _check(model: type[BaseModel], value: Any, path: ConfigPath) -> None:
    """Check a section: its keys, the sections below, then its values."""
    if isinstance(value, Mapping):
        _refuse_unknown(value, _keys(model), path)
        for key, item in value.items():
            _check_item(model, key, item, (*path, key))
    checked = _check_values(model, value, path)
    if isinstance(checked, ServeApplicationSchema) and checked.import_path in BUILDERS:
        settings = _check_args(value.get("args") or {}, (*path, "args"))
        _check_scaler(checked.external_scaler_enabled, settings, path)


def _check_item(model: type[BaseModel], key: str, value: Any, path: ConfigPath) -> None:
    if key == "runtime_env" and isinstance(value, Mapping):
        _refuse_unknown(value, sorted(k for k in RuntimeEnv.known_fields if not k.startswith("_")), path)
    section = _section(model, key)
    if section is not None and isinstance(value, Mapping):
        _check(section, value, path)
    if section is not None and isinstance(value, list):
        for index, item in enumerate(value):
            _check(section, item, (*path, index))


def _section(model: type[BaseModel], key: str) -> type[BaseModel] | None:
    """The model of the value of a key, or of its list items."""
    if (model, key) in MODELS:
        return MODELS[model, key]
    named = {field.alias or name: field for name, field in model.model_fields.items()}
    return next(_models_in((named.get(key) or model.model_fields[key]).annotation), None)


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _models_in(inner)


def _keys(model: type[BaseModel]) -> list[str]:
    aliases = [field.alias for field in model.model_fields.values() if field.alias]
    return [*model.model_fields, *aliases]


def _refuse_unknown(section: Mapping[Any, Any], known: Sequence[str], path: ConfigPath) -> None:
    for key in section:
        if key not in known:
            guess = nearest(str(key), known)
            hint = f"did you mean {guess}?" if guess else f"choose from {', '.join(known)}"
            raise UserError(f"{_dotted((*path, str(key)))}: unknown key; {hint}")


def _check_values(model: type[BaseModel], value: Any, path: ConfigPath) -> BaseModel:
    """Validate with Ray's model. Its validators modify their input, so they get a copy."""
    try:
        return model.model_validate(copy.deepcopy(value))
    except ValidationError as error:
        first = error.errors()[0]
        where = _dotted((*path, *(part for part in first["loc"] if isinstance(part, int) or part.islower())))
        raise UserError(f"{where}: {_one_line(first['msg'].removeprefix('Value error, '))}") from None
    except Exception as error:  # noqa: BLE001 - importing a module that the config names can raise anything
        raise UserError(f"{_dotted(path)}: {_one_line(str(error))}") from None


def _check_args(args: Mapping[str, Any], path: ConfigPath) -> ServeSettings:
    """The settings in ``args``. ``config`` is required here: with Ray there is no default settings file."""
    if isinstance(args, Mapping) and "config" not in args:
        raise UserError(f"{_dotted(path)}: config: names no file of conf/serve; use config: local or gpu")
    try:
        return load({str(key): value for key, value in args.items()})
    except UserError as error:
        raise UserError(f"{_dotted(path)}: {_one_line(str(error))}") from None


def _check_scaler(enabled: bool, settings: ServeSettings, path: ConfigPath) -> None:
    """Ray checks only deployments that the file lists; ours come from the builder and may have a policy."""
    engine, external = settings.engine, settings.scaling.external
    if enabled and not external and engine.min_replicas < engine.max_replicas:
        where = _dotted((*path, "external_scaler_enabled"))
        raise UserError(f"{where}: the engines have their own policy; set args.scaling.external: true")
    if external and not enabled:
        where = _dotted((*path, "args", "scaling", "external"))
        raise UserError(
            f"{where}: Ray refuses external scaling; set external_scaler_enabled: true next to args"
        )


def _dotted(path: ConfigPath) -> str:
    """``applications[0].deployments[1].name``, or ``config`` for an empty path."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.removeprefix(".") or "config"


def _one_line(text: str) -> str:
    return " ".join(text.split())
