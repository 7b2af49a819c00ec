"""Serve config files: every misspelt key at every level is refused in one line, good files pass."""

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
    """As messages write it: ``applications[0].name``."""
    return re.sub(r"\.(\d+)", r"[\1]", path)


def changed(path: str, **values: Any) -> dict[str, Any]:
    """The good config with keys of one section set."""
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


def complaint(config: Any) -> str:
    with pytest.raises(UserError) as refused:
        check(config)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_a_good_config_passes_in_every_form() -> None:
    before = copy.deepcopy(GOOD)
    check(GOOD)
    assert before == GOOD
    check(yaml.safe_dump(GOOD))
    spec = {"serveConfigV2": yaml.safe_dump(GOOD), "rayClusterConfig": {}}
    check(yaml.safe_dump({"apiVersion": "ray.io/v1", "kind": "RayService", "spec": spec}))


@pytest.mark.parametrize("replicas", [1, 4])
def test_what_ray_would_write_about_the_application_passes(replicas: int) -> None:
    """As ``serve build`` does, which takes no builder itself."""
    args = {"config": "local", "model": "/models/tiny", "engine": {"max_replicas": replicas}}
    parts_of_it = [deployment_to_schema(each) for each in build_app(build(load(args)), name="a").deployments]
    written = ServeApplicationSchema(
        name="a", import_path="serve.app:build", args=args, deployments=parts_of_it, runtime_env={}
    )
    check({"applications": [written.model_dump(exclude_unset=True)]})


def test_engines_that_something_else_counts_begin_with_the_least() -> None:
    args = {"model": "m", "engine": {"min_replicas": 2, "max_replicas": 4}, "scaling.external": True}
    (engine,) = [each for each in build_app(build(load(args)), name="a").deployments if each.name == "engine"]
    assert (engine._deployment_config.autoscaling_config, engine.num_replicas) == (None, 2)


def test_ray_learns_that_the_builder_takes_settings() -> None:
    (args,) = inspect.signature(build).parameters.values()
    assert args.annotation is ServeSettings


def test_every_section_of_rays_is_tried() -> None:
    free = ("env_vars", "user_config", "init_kwargs", "policy_kwargs", "placement_group_bundles")
    tried = {path for path in mappings(GOOD) if not any(name in path for name in free)}
    assert tried - set(SECTIONS) == {"applications.1", "applications.1.args", "applications.0.deployments.1"}


@pytest.mark.parametrize("path", SECTIONS)
def test_a_misspelt_key_is_refused_at_every_level(path: str) -> None:
    message = complaint(changed(path, **{SECTIONS[path]: 1}))
    assert "did you mean" in message
    where = shown(f"{path}.{SECTIONS[path]}".removeprefix("."))
    if f"{APP}.args" in path:
        where = where.replace("args.", "args: ")
    assert message.startswith(f"{where}: unknown ")


def test_ray_itself_takes_most_of_them() -> None:
    """The reason for this check; where Ray refuses more, less of it is needed."""
    taken = 0
    for path, key in SECTIONS.items():
        try:
            ServeDeploySchema.model_validate(changed(path, **{key: 1}))
        except ValueError:
            continue
        taken += 1
    assert taken > len(SECTIONS) // 2


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
    assert expected in complaint(changed(path, **values))


ELASTIC = {"config": "local", "model": "m", "engine.max_replicas": 3}
EXTERNAL = {**ELASTIC, "scaling.external": True}


def scaled_by(enabled: bool, args: dict[str, Any]) -> dict[str, Any]:
    return changed(APP, external_scaler_enabled=enabled, args=args, deployments=[])


def test_who_sets_the_number_of_engines_is_said_to_ray_and_to_us() -> None:
    assert complaint(scaled_by(True, ELASTIC)) == (
        "applications[0].external_scaler_enabled: the engines have a policy of their own; "
        "set args.scaling.external: true"
    )
    assert complaint(scaled_by(False, EXTERNAL)) == (
        "applications[0].args.scaling.external: Ray refuses to be told; "
        "set external_scaler_enabled: true beside args"
    )


def test_either_may_set_the_number_of_engines() -> None:
    check(scaled_by(True, EXTERNAL))
    check(scaled_by(False, ELASTIC))
    check(scaled_by(True, {**ELASTIC, "engine.max_replicas": 1}))  # a fixed number is no policy


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("- a", "not a mapping"),
        ("a: [", "not YAML"),
        ("applications: []\napplications: []", "applications stands twice"),
        ("{}", "applications: "),
        ("kind: RayService\nspec: {}", "spec.serveConfigV2: "),
        ("kind: RayService\nspec: {serveConfigV2: 'application: []'}", "did you mean applications?"),
    ],
)
def test_what_is_no_config_is_refused(text: str, expected: str) -> None:
    assert expected in complaint(text)


def test_the_command_says_ok_or_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, bad = tmp_path / "good.yaml", tmp_path / "bad.yaml"
    good.write_text(yaml.safe_dump(GOOD))
    bad.write_text(yaml.safe_dump(changed("http_options", prt=1)))
    main([str(good)])
    assert capsys.readouterr().out == f"{good}: ok\n"
    for arguments in ([str(good), str(bad)], [str(tmp_path / "none.yaml")], []):
        with pytest.raises(SystemExit) as left:
            main(arguments)
        assert left.value.code == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert error.count("\n") == 1


def test_the_command_starts_in_a_checkout(root: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    command = [sys.executable, "-m", "serve.config_check"]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.startswith("error: no file given")) == (2, True), done.stderr
