"""The ``lladav`` command: ``lladav COMMAND ARGUMENTS``, or ``python -m lladav``.

Each command is the ``main`` of a module that also runs as a file of a checkout, with the same arguments. The
modules are named, not imported: they belong to packages above this one, and ``--help`` needs neither torch
nor ray.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from typing import NamedTuple


class Command(NamedTuple):
    """A module with a function ``main(arguments)``, and its line in ``lladav --help``."""

    module: str
    summary: str


COMMANDS = {
    "train": Command("train.run", "train a stage, or the whole curriculum with stage=all"),
    "evaluate": Command("train.evaluate", "answer the held-out questions with a trained stage"),
    "experiment": Command("train.experiment", "run an experiment of the paper: trials, a table and a plot"),
    "export": Command("train.export", "write a checkpoint of a run in a released layout"),
    "towers": Command("train.towers", "build the tiny towers that the built-in curriculum starts from"),
    "data": Command("data.look.__main__", "look at the data of a stage before it is trained"),
    "digits": Command("data.digits.__main__", "write the built-in data set"),
    "tiny-model": Command("train.tiny_model", "train the shipped tiny model again"),
    "demo": Command("train.demo", "train and evaluate the tiny model in the current folder"),
    "generate": Command("lladav.generation", "answer a question about images or a video"),
    "serve": Command("serve.run", "serve a model and the playground on this machine"),
    "batch": Command("serve.batch", "answer the rows of a file without a server"),
    "keys": Command("serve.keys", "create an API key"),
    "config-check": Command("serve.config_check", "check Serve config files and RayService manifests"),
    "follow-scale": Command("serve.follow_scale", "apply an external autoscaler's number of replicas"),
}


def main(arguments: Sequence[str] | None = None) -> int | None:
    """Run the command that the first argument names; an unknown one is one line on stderr and exit code 2."""
    name, *rest = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if name in ("-h", "--help"):
        print(_help())
        return None
    if name not in COMMANDS:
        from lladav.config.introspection import choices_hint

        print(f"error: {name}: no such command{choices_hint(name, COMMANDS)}", file=sys.stderr)
        return 2
    return importlib.import_module(COMMANDS[name].module).main(rest)


def _help() -> str:
    lines = [f"  {name:<14}{command.summary}" for name, command in COMMANDS.items()]
    ending = "lladav COMMAND --help describes the arguments of a command"
    return "\n".join(["usage: lladav COMMAND ARGUMENTS", "", *lines, "", ending])


if __name__ == "__main__":
    sys.exit(main())
