"""Start the application, or report in one line why it cannot start."""

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
"""The last line of a traceback: an exception's type and message."""


def check_checkpoint(folder: str | Path) -> None:
    """Raise ``UserError`` for a checkpoint that every replica would refuse, without reading its weights."""
    check_model(folder)
    ChatTokenizer.load(folder)


def deploy(application: Application, name: str, external: bool) -> None:
    """Run an application on the connected Ray; returns when its replicas run.

    ``external`` lets a program outside of Ray set the number of replicas. Raises ``UserError`` with the
    reason if a replica cannot start.
    """
    try:
        serve.run(application, name=name, route_prefix="/", external_scaler_enabled=external)
    except RuntimeError as error:
        deployments = serve.status().applications[name].deployments.values()
        raise UserError(reason([*(each.message for each in deployments), str(error)])) from None


def reason(messages: Iterable[str]) -> str:
    """The exception of the first message that has a traceback, else the first line of the last message.

    Exceptions other than ``UserError`` are shown with their type.
    """
    last = ""
    for last in messages:
        if raised := RAISED.findall(last):
            kind, message = raised[-1]
            return f"a replica cannot start: {message if _is_user_error(kind) else f'{kind}: {message}'}"
    return last.partition("\n")[0]


def user_error_in(text: str) -> UserError | None:
    """The last ``UserError`` of some tracebacks, if they have one."""
    raised = [message for kind, message in RAISED.findall(text) if _is_user_error(kind)]
    return UserError(raised[-1]) if raised else None


def _is_user_error(kind: str) -> bool:
    return kind.rpartition(".")[2] == UserError.__name__
