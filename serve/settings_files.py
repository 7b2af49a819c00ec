"""Values of serving settings: a file of ``conf/serve``, overridden by arguments."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import GrammarParseError, OmegaConfBaseException

from lladav.config.introspection import choices_hint
from lladav.config.loader import CONF, group_choices, read_yaml
from lladav.errors import UserError

DEFAULT_CONFIG = "local"


def merged(arguments: Mapping[str, Any], conf: Path = CONF) -> dict[str, Any]:
    """The values of the file of ``conf/serve`` that ``config`` names, overridden by the other arguments.

    Dotted keys are paths. Raises ``UserError`` for a file that does not exist and for a malformed argument.
    """
    name = str(arguments.get("config", DEFAULT_CONFIG))
    overrides = {key: value for key, value in arguments.items() if key != "config"}
    known = group_choices("serve", conf)
    if name not in known:
        raise UserError(f"config={name}: no such file in conf/serve{choices_hint(name, known)}")
    tree = OmegaConf.create(read_yaml(conf / "serve" / f"{name}.yaml"))
    for key, value in overrides.items():
        _set(tree, str(key), value)
    values = OmegaConf.to_container(tree)
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def _set(tree: DictConfig, key: str, value: Any) -> None:
    if not all(key.split(".")):
        raise UserError(f"{key!r}: not a setting; write section.key, as in engine.max_rows")
    try:
        OmegaConf.update(tree, key, _unquoted(key, value), merge=True, force_add=True)
    except GrammarParseError:
        raise UserError(f"{key}: ${{ is not closed; close it or leave it out") from None
    except OmegaConfBaseException as error:
        raise UserError(f"{key}: cannot be set ({str(error).splitlines()[0]})") from None


def _unquoted(key: str, value: Any) -> Any:
    """The value; a list where a command line has text like ``[a, b]``."""
    if not (isinstance(value, str) and value.startswith("[")):
        return value
    try:
        return yaml.safe_load(value)
    except yaml.YAMLError:
        raise UserError(f"{key}={value}: not a list; write [a, b]") from None
