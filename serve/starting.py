"""Starting the application, and the reason in one line where it cannot start."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from ray import serve
from ray.serve import Application

from lladav.checkpoint import check_model
from lladav.errors import UserError
from lladav.inputs.chat import ChatTokenizer

RAISED = re.compile(r"^((?:\w+\.)*\w*(?:Error|Exception|Exit|Interrupt)): (.+)$", re.MULTILINE)
"""The line of a traceback with an exception's type and message."""


def check_checkpoint(folder: str | Path) -> None:
    """Raise ``UserError`` for what every replica would refuse; values of weights are not read."""
    check_model(folder)
    ChatTokenizer.load(folder)


def deploy(application: Application, name: str, external: bool) -> None:
    """Run an application on the Ray that is connected; returns when its replicas run.

    ``external`` lets something outside of Ray set the number of replicas. Raises ``UserError`` with the
    reason of a replica that cannot start.
    """
    try:
        serve.run(application, name=name, route_prefix="/", external_scaler_enabled=external)
    except RuntimeError as error:
        deployments = serve.status().applications[name].deployments.values()
        raise UserError(reason([*(each.message for each in deployments), str(error)])) from None


def reason(messages: Iterable[str]) -> str:
    """The exception that the first message with a traceback ends with, else the first line of the last one.

    A ``UserError`` says everything in its message; of other exceptions the type is named.
    """
    last = ""
    for last in messages:
        if raised := RAISED.findall(last):
            kind, message = raised[-1]
            own = kind.rpartition(".")[2] == UserError.__name__
            return (
                f"a replica cannot start: {message}" if own else f"a replica cannot start: {kind}: {message}"
            )
    return last.partition("\n")[0]
