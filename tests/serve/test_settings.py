"""Settings of serving: every shipped file loads, mistakes are reported in one line."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from lladav.config.loader import CONF, group_choices
from lladav.decoding.params import DecodingOptions
from lladav.errors import UserError
from serve.decoding_params import DecodingParams, IntervalRange
from serve.settings import Auth, ServeSettings, load

KEY = {"name": "someone", "sha256": "0" * 64}
NEEDED = {"local": {"model": "folder"}, "gpu": {"model": "folder", "keys": [KEY]}}
"""Settings that each shipped file needs."""


def error_of(**given: Any) -> str:
    """The error for invalid arguments, which is one line."""
    with pytest.raises(UserError) as error:
        load({"model": "folder", **given})
    assert "\n" not in str(error.value)
    return str(error.value)


def test_all_files_are_tested() -> None:
    assert group_choices("serve") == sorted(NEEDED)


@pytest.mark.parametrize("name", group_choices("serve"))
def test_every_shipped_file_loads(name: str) -> None:
    settings = load({"config": name, **NEEDED[name]})
    assert settings.model == "folder"
    assert set(settings.dial.presets) == {"fast", "balanced", "accurate"}
    assert settings.dial.presets["accurate"].given() == {"refresh_interval": 1}


@pytest.mark.parametrize("name", group_choices("serve"))
def test_every_preset_is_valid_for_decoding(name: str) -> None:
    settings = load({"config": name, **NEEDED[name]})
    for preset in settings.dial.presets.values():
        params = {k: v for k, v in preset.given().items() if k != "refresh_interval"}
        DecodingOptions(max_tokens=64, **params)


def test_the_file_for_a_cluster_needs_a_model_and_keys() -> None:
    with pytest.raises(UserError, match="model: needs a value"):
        load({"config": "gpu", "keys": [KEY]})
    assert "add keys" in error_of(config="gpu")
    assert load({"config": "gpu", "model": "m", "keys_file": "/on/other/nodes"}).keys == []


def test_local_is_the_default_file() -> None:
    assert load({"model": "m"}) == load({"model": "m", "config": "local"})
    assert load({"model": "m"}).auth is Auth.off


def test_dotted_and_nested_keys_override_the_file() -> None:
    fast = {"dial.presets.fast.steps": 4, "dial.presets.fast.threshold": None}
    settings = load({"model": "m", "engine.max_rows": "3", "engine": {"cpus": 2}, **fast})
    assert (settings.engine.max_rows, settings.engine.cpus, settings.engine.threads) == (3, 2, 1)
    assert settings.dial.presets["fast"] == DecodingParams.model_validate(
        {"refresh_interval": IntervalRange(min=8, max=32), "steps": 4}
    )


def test_a_command_line_may_set_lists_and_aliases() -> None:
    given = {"media.directories": "[/videos, /more]", "aliases.r8.refresh_interval": "8"}
    settings = load({"model": "m", **given})
    assert settings.media.directories == ["/videos", "/more"]
    assert settings.aliases["r8"].given() == {"refresh_interval": 8}
    assert error_of(**{"media.directories": "[/a"}) == "media.directories=[/a: not a list; write [a, b]"


def test_the_builder_of_ray_serve_gets_the_same_settings() -> None:
    """Ray validates the arguments of an application with the builder's annotation."""
    given = {"config": "local", "model": "m", "engine.max_rows": 3}
    assert ServeSettings.model_validate(given) == load(given)
    assert ServeSettings.model_validate(load(given).model_dump()) == load(given)


@pytest.mark.parametrize("given", [{"engine.max_row": 3}, {"config": "locl"}, {"name": "${x"}])
def test_the_builder_reports_the_same_error(given: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as error:
        ServeSettings.model_validate({"config": "local", "model": "m", **given})
    assert error_of(**given) in str(error.value)


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("engine.max_row", "engine.max_rows"),
        ("max_rows", "engine.max_rows"),
        ("limts.choices", "limits"),
        ("dial.presets.fast.treshold", "dial.presets.fast.threshold"),
        ("dial.presets.fsat.threshold", "dial.presets.fast"),
        ("dial.presets.fast.refresh_interval.mx", "dial.presets.fast.refresh_interval.max"),
    ],
)
def test_misspelt_keys_get_a_suggestion(key: str, meant: str) -> None:
    assert error_of(**{key: 1}).endswith(f": unknown setting; did you mean {meant}?")


def test_a_misspelt_key_in_a_list_is_reported_before_the_missing_one() -> None:
    keys = [KEY, {"name": "b", "sha25": "0" * 64}]
    assert error_of(config="gpu", keys=keys) == "keys[1].sha25: unknown setting; did you mean keys[1].sha256?"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"config": "locl"}, "config=locl: no such file in conf/serve; did you mean local?"),
        ({"zzz": 1}, "zzz: unknown setting; --help lists all settings"),
        ({"": 1}, "'': not a setting"),
        ({"engine..max_rows": 1}, "'engine..max_rows': not a setting"),
        ({"name": "${x"}, "name: ${ is not closed"),
        ({"name": {1, 2}}, "name: cannot be set"),
        ({"keys[0].name": "a"}, "keys: Input should be a valid list"),
        ({"engine": 3}, "engine=3: "),
        ({"engine": {3: 4}}, "engine.3: unknown setting"),
        ({"engine.max_rows": 0}, "engine.max_rows=0: Input should be greater than or equal to 1"),
        ({"engine.dtype": "float8"}, "engine.dtype=float8: Input should be 'auto', 'float32' or 'bfloat16'"),
        ({"engine.min_replicas": 2}, "engine: min_replicas is above max_replicas; swap them"),
        (
            {"engine.min_replicas": 0, "scaling.external": True},
            "engine: min_replicas is 0, and scaling.external begins with it; set it to 1",
        ),
        ({"scaling.lower": 0.9}, "scaling: lower is not below upper"),
        ({"dial.min": 65}, "dial: min is above max; swap them"),
        ({"dial.min": 4}, "dial: default: 1 is not between min and max; set it to one of them"),
        ({"dial.max": 4}, "dial: presets.fast: refresh_interval 8 is not within 1 to 4; change either"),
        ({"ingress.held_bytes": 1000}, "ingress: held_bytes is below limits.body_bytes; raise it"),
        ({"limits.max_tokens": 32}, "limits: default_max_tokens is above max_tokens; lower it"),
        ({"dial.presets.fast.threshold": 2}, "dial.presets.fast.threshold=2: "),
        ({"dial.presets.fast.factor": 1}, "dial: presets.fast: threshold and factor exclude each other"),
        (
            {"dial.presets.fast.refresh_interval": 0},
            "dial.presets.fast.refresh_interval=0: Input should be g",
        ),
        (
            {"dial.presets.fast.refresh_interval": {"min": 4, "max": 3}},
            "dial.presets.fast.refresh_interval: min is above max",
        ),
        ({"media.directories": ["videos"]}, "media.directories[0]=videos: String should match pattern"),
        ({"limits_storage": "memory://"}, "limits_storage: String should match pattern"),
        ({"auth": "keys"}, "auth is keys and there are none"),
        ({"ingress.cors_origins": ["*"]}, "ingress: cors_origins is * and auth is off"),
        (
            {"ingress.cors_origins": ["a.example"]},
            "ingress.cors_origins[0]=a.example: String should match pattern",
        ),
        ({"keys": [KEY]}, "auth is off and keys are given"),
        ({"keys_file": "keys.yaml"}, "auth is off and keys are given"),
        ({"auth": "keys", "keys": [KEY, KEY]}, "keys: names differ from each other"),
        ({"auth": "keys", "keys": [KEY, {**KEY, "name": "b"}]}, "keys: two entries are of the same key"),
    ],
)
def test_mistakes_are_reported_with_their_path(given: dict[str, Any], expected: str) -> None:
    assert error_of(**given).startswith(expected)


def test_a_key_that_is_not_text_is_refused() -> None:
    with pytest.raises(UserError, match="3: unknown setting"):
        load({3: 4})  # type: ignore[dict-item]


def test_a_key_in_clear_is_not_repeated() -> None:
    secret = "sk-lladav-secret"
    given = {"config": "gpu", "model": "m", "keys": [{"name": "a", "sha256": secret}]}
    assert secret not in error_of(**given)
    with pytest.raises(ValidationError) as error:
        ServeSettings.model_validate(given)
    assert secret not in str(error.value)


def test_off_needs_no_quotes(tmp_path: Path) -> None:
    (tmp_path / "serve").mkdir()
    (tmp_path / "serve" / "local.yaml").write_text("auth: off\n")
    assert load({"model": "m"}, tmp_path).auth is Auth.off


def test_a_file_that_is_not_a_mapping_is_refused(tmp_path: Path) -> None:
    (tmp_path / "serve").mkdir()
    (tmp_path / "serve" / "local.yaml").write_text("[1]\n")
    with pytest.raises(UserError, match="no mapping"):
        load({"model": "m"}, tmp_path)


@pytest.mark.parametrize(
    "params",
    [
        {"refresh_interval": 0}, {"steps": 0}, {"tokens_per_step": 0}, {"block_length": 0}, {"threshold": 0},
        {"threshold": 1.01}, {"threshold": float("nan")}, {"factor": 0}, {"entropy": float("inf")},
        {"temperature": -1}, {"guidance": float("nan")}, {"top_p": 2}, {"cache": "all"}, {"reveal": "quota"},
        {"refresh_interval": {"min": 1}}, {"refresh_interval": {"min": 0, "max": 3}},
        {"refresh_interval": [1, 2]}, {"refresh_interval": "many"},
    ],
)  # fmt: skip
def test_a_param_out_of_its_range_is_one_error(params: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as error:
        DecodingParams.model_validate(params)
    assert error.value.error_count() == 1


def test_given_params() -> None:
    class Body(DecodingParams):
        model: str

    body = Body.model_validate({"model": "m", "refresh_interval": {"min": 2, "max": 9}, "temperature": 0})
    assert body.given() == {"refresh_interval": IntervalRange(min=2, max=9), "temperature": 0}
    assert DecodingParams().given() == {}


def test_every_param_is_a_documented_option() -> None:
    options = {*DecodingOptions.__dataclass_fields__, *inspect.signature(DecodingOptions.for_chat).parameters}
    assert set(DecodingParams.model_fields) <= options
    assert all(field.description for field in DecodingParams.model_fields.values())


def test_sections_are_closed() -> None:
    sections = [f.annotation for f in ServeSettings.model_fields.values()]
    for section in sections:
        if isinstance(section, type) and issubclass(section, BaseModel):
            assert section.model_config.get("extra") == "forbid"
            assert section.model_config.get("frozen") is True


def test_shipped_files_are_in_the_checkout(root: Path) -> None:
    assert Path(CONF).samefile(root / "conf")
