"""Serve config files: a misspelt key at any level is an error of one line; valid files pass."""

from __future__ import annotations

import copy
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.serve._private.build_app import build_app
from ray.serve.deployment import deployment_to_schema
from ray.serve.schema import ServeApplicationSchema, ServeDeploySchema

from lladav.errors import UserError
from serve.app import build
from serve.ops.autoscaling import autoscaling_config
from serve.ops.config_check import check, main
from serve.settings import ServeSettings, load

GOOD: dict[str, Any] = {
    "proxy_location": "EveryNode",
    "http_options": {"host": "0.0.0.0", "port": 8000, "request_timeout_s": 300},
    "grpc_options": {"port": 9000, "grpc_servicer_functions": []},
    "controller_options": {"runtime_env": {"env_vars": {"A": "1"}}},
    "logging_config": {"encoding": "JSON", "log_level": "INFO"},
    "tracing_config": {"enabled": False},
    "target_capacity": 100,
    "applications": [
        {
            "name": "lladav",
            "route_prefix": "/",
            "import_path": "serve.app:build",
            "runtime_env": {"env_vars": {"PYTHONPATH": "platform"}},
            "logging_config": {"log_level": "INFO"},
            "args": {"config": "local", "model": "/models/tiny", "engine": {"max_rows": 8}},
            "deployments": [
                {
                    "name": "Engine",
                    "max_ongoing_requests": 48,
                    "autoscaling_config": autoscaling_config(0, 4, {"upper": 0.8}),
                    "ray_actor_options": {"num_cpus": 1, "runtime_env": {"env_vars": {"OMP": "1"}}},
                    "logging_config": {"log_level": "DEBUG"},
                    "backpressure_config": {"status_code": 503},
                    "request_router_config": {"initial_backoff_s": 0.1},
                    "user_config": {"anything": {"goes": 1}},
                },
                {
                    "name": "Ingress",
                    "num_replicas": 2,
                    "gang_scheduling_config": {"gang_size": 1},
                    "deployment_actors": [{"name": "a", "actor_class": "m:A", "init_kwargs": {"free": 1}}],
                    "placement_group_bundles": [{"CPU": 1, "custom": 1}],
                },
            ],
        },
        {
            "name": "other",
            "route_prefix": "/other",
            "import_path": "module:app",
            "args": {"whatever": 1},
            "autoscaling_policy": {
                "policy_function": "serve.ops.autoscaling:EnginePolicy",
                "policy_kwargs": {},
            },
        },
    ],
}
APP, DEPLOYMENT = "applications.0", "applications.0.deployments.0"
SECTIONS = {
    "": "http_option",
    "http_options": "root_pth",
    "grpc_options": "prt",
    "controller_options": "runtime_envs",
    "controller_options.runtime_env": "env_var",
    "logging_config": "log_levl",
    "tracing_config": "enable",
    APP: "import_pth",
    f"{APP}.runtime_env": "env_var",
    f"{APP}.logging_config": "encodng",
    f"{APP}.args": "modle",
    f"{APP}.args.engine": "max_row",
    "applications.1.autoscaling_policy": "policy_kwarg",
    DEPLOYMENT: "max_ongoing_request",
    f"{DEPLOYMENT}.autoscaling_config": "min_replica",
    f"{DEPLOYMENT}.autoscaling_config.policy": "policy_functon",
    f"{DEPLOYMENT}.ray_actor_options": "num_cpu",
    f"{DEPLOYMENT}.ray_actor_options.runtime_env": "worked_dir",
    f"{DEPLOYMENT}.logging_config": "logs_dr",
    f"{DEPLOYMENT}.backpressure_config": "retry_after",
    f"{DEPLOYMENT}.request_router_config": "initial_backof_s",
    "applications.0.deployments.1.gang_scheduling_config": "gang_siz",
    "applications.0.deployments.1.deployment_actors.0": "init_kwarg",
}


def parts(path: str) -> list[str | int]:
    return [int(part) if part.isdigit() else part for part in path.split(".") if part]


def shown(path: str) -> str:
    """The path as in error messages: ``applications[0].name``."""
    return re.sub(r"\.(\d+)", r"[\1]", path)


def changed(path: str, **values: Any) -> dict[str, Any]:
    """The valid config with changed keys in one section."""
    config = copy.deepcopy(GOOD)
    section: Any = config
    for part in parts(path):
        section = section[part]
    section.update(values)
    return config


def mappings(tree: Any, path: str = "") -> list[str]:
    """Paths of all mappings."""
    below = enumerate(tree) if isinstance(tree, list) else tree.items() if isinstance(tree, dict) else ()
    found = [each for key, value in below for each in mappings(value, f"{path}.{key}".removeprefix("."))]
    return [path, *found] if isinstance(tree, dict) else found


def error_of(config: Any) -> str:
    with pytest.raises(UserError) as caught:
        check(config)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_valid_config_passes_in_every_form() -> None:
    before = copy.deepcopy(GOOD)
    check(GOOD)
    assert before == GOOD
    check(yaml.safe_dump(GOOD))
    spec = {"serveConfigV2": yaml.safe_dump(GOOD), "rayClusterConfig": {}}
    check(yaml.safe_dump({"apiVersion": "ray.io/v1", "kind": "RayService", "spec": spec}))


@pytest.mark.parametrize("replicas", [1, 4])
def test_rays_own_description_of_the_application_passes(replicas: int) -> None:
    """As ``serve build`` writes it; that command does not accept builders."""
    args = {"config": "local", "model": "/models/tiny", "engine": {"max_replicas": replicas}}
    deployments = [deployment_to_schema(each) for each in build_app(build(load(args)), name="a").deployments]
    written = ServeApplicationSchema(
        name="a", import_path="serve.app:build", args=args, deployments=deployments, runtime_env={}
    )
    check({"applications": [written.model_dump(exclude_unset=True)]})


def test_externally_scaled_engines_start_with_the_minimum() -> None:
    args = {"model": "m", "engine": {"min_replicas": 2, "max_replicas": 4}, "scaling.external": True}
    (engine,) = [each for each in build_app(build(load(args)), name="a").deployments if each.name == "engine"]
    assert (engine._deployment_config.autoscaling_config, engine.num_replicas) == (None, 2)


def test_the_builders_annotation_is_the_settings_class() -> None:
    (args,) = inspect.signature(build).parameters.values()
    assert args.annotation is ServeSettings


def test_every_section_of_the_config_is_covered() -> None:
    free = ("env_vars", "user_config", "init_kwargs", "policy_kwargs", "placement_group_bundles")
    covered = {path for path in mappings(GOOD) if not any(name in path for name in free)}
    assert covered - set(SECTIONS) == {
        "applications.1",
        "applications.1.args",
        "applications.0.deployments.1",
    }


@pytest.mark.parametrize("path", SECTIONS)
def test_a_misspelt_key_is_refused_at_every_level(path: str) -> None:
    message = error_of(changed(path, **{SECTIONS[path]: 1}))
    assert "did you mean" in message
    where = shown(f"{path}.{SECTIONS[path]}".removeprefix("."))
    if f"{APP}.args" in path:
        where = where.replace("args.", "args: ")
    assert message.startswith(f"{where}: unknown ")


def test_ray_itself_accepts_most_of_them() -> None:
    """The reason for this check. If Ray refuses more keys one day, the check can shrink."""
    accepted = 0
    for path, key in SECTIONS.items():
        try:
            ServeDeploySchema.model_validate(changed(path, **{key: 1}))
        except ValueError:
            continue
        accepted += 1
    assert accepted > len(SECTIONS) // 2


@pytest.mark.parametrize(
    ("path", "values", "expected"),
    [
        ("http_options", {"port": "many"}, "http_options.port: "),
        (f"{DEPLOYMENT}.autoscaling_config", {"min_replicas": -1}, "autoscaling_config.min_replicas: "),
        (f"{DEPLOYMENT}.autoscaling_config", {"min_replicas": 9}, "deployments[0].autoscaling_config: "),
        (f"{DEPLOYMENT}.autoscaling_config.policy", {"policy_function": "no.such:it"}, "policy: No module"),
        (f"{DEPLOYMENT}.ray_actor_options", {"num_gpus": -1}, "ray_actor_options.num_gpus: "),
        (DEPLOYMENT, {"ray_actor_options": 3}, "deployments[0].ray_actor_options: "),
        (APP, {"import_path": "nothing"}, "applications[0].import_path: "),
        (APP, {"deployments": {"name": "Engine"}}, "applications[0].deployments: "),
        ("applications.1", {"name": "lladav"}, "applications: "),
        ("", {"applications": None}, "applications: "),
        ("", {"applications": ["lladav"]}, "applications[0]: "),
        (f"{APP}.args", {"engine.max_rows": 0}, "applications[0].args: engine.max_rows=0: "),
        (f"{APP}.args", {"config": "locl"}, "did you mean local?"),
        (f"{APP}.args", {"name": "${nothing"}, "applications[0].args: "),
        (APP, {"args": {"config": "local"}}, "applications[0].args: model: needs a value"),
        (APP, {"args": {"model": "m"}}, "applications[0].args: config: names no file"),
        (APP, {"args": 3}, "applications[0].args: "),
    ],
)
def test_wrong_values_are_refused(path: str, values: dict[str, Any], expected: str) -> None:
    assert expected in error_of(changed(path, **values))


ELASTIC = {"config": "local", "model": "m", "engine.max_replicas": 3}
EXTERNAL = {**ELASTIC, "scaling.external": True}


def scaled_by(enabled: bool, args: dict[str, Any]) -> dict[str, Any]:
    return changed(APP, external_scaler_enabled=enabled, args=args, deployments=[])


def test_external_scaling_has_to_be_set_for_ray_and_for_the_builder() -> None:
    assert error_of(scaled_by(True, ELASTIC)) == (
        "applications[0].external_scaler_enabled: the engines have their own policy; "
        "set args.scaling.external: true"
    )
    assert error_of(scaled_by(False, EXTERNAL)) == (
        "applications[0].args.scaling.external: Ray refuses external scaling; "
        "set external_scaler_enabled: true next to args"
    )


def test_the_policy_or_an_external_scaler_may_set_the_replica_count() -> None:
    check(scaled_by(True, EXTERNAL))
    check(scaled_by(False, ELASTIC))
    check(scaled_by(True, {**ELASTIC, "engine.max_replicas": 1}))  # a fixed number has no policy


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("- a", "not a mapping"),
        ("a: [", "not YAML"),
        ("applications: []\napplications: []", "duplicate key applications"),
        ("{}", "applications: "),
        ("kind: RayService\nspec: {}", "spec.serveConfigV2: "),
        ("kind: RayService\nspec: {serveConfigV2: 'application: []'}", "did you mean applications?"),
    ],
)
def test_other_content_is_an_error(text: str, expected: str) -> None:
    assert expected in error_of(text)


def test_the_command_prints_ok_or_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, bad = tmp_path / "good.yaml", tmp_path / "bad.yaml"
    good.write_text(yaml.safe_dump(GOOD))
    bad.write_text(yaml.safe_dump(changed("http_options", prt=1)))
    main([str(good)])
    assert capsys.readouterr().out == f"{good}: ok\n"
    for arguments in ([str(good), str(bad)], [str(tmp_path / "none.yaml")], []):
        with pytest.raises(SystemExit) as exited:
            main(arguments)
        assert exited.value.code == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert error.count("\n") == 1


def test_the_command_starts_in_a_checkout(root: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    command = [sys.executable, "-m", "serve.config_check"]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.startswith("error: no file given")) == (2, True), done.stderr
