"""Start the application, or report in one line why it cannot start."""

from __future__ import annotations

import re
from collections.abc import Iterable

from ray import serve
from ray.serve import Application

from lladav.checkpoint import check_model, open_adapters
from lladav.errors import UserError
from lladav.inputs.chat import ChatTokenizer
from lladav.storage import absolute_model
from serve.settings import ServeSettings, Settings

GPU_SETTING = "engine.gpus"
RAISED = re.compile(r"^((?:\w+\.)*\w*(?:Error|Exception|Exit|Interrupt)): (.+)$", re.MULTILINE)
"""The last line of a traceback: an exception's type and message."""


def with_absolute_paths(settings: Settings) -> Settings:
    """The same settings for processes in other folders. Hub ids stay: each machine has its own cache."""
    adapters = {name: absolute_model(folder) for name, folder in settings.adapters.items()}
    return settings.model_copy(update={"model": absolute_model(settings.model), "adapters": adapters})


def check_checkpoint(settings: ServeSettings) -> None:
    """Raise ``UserError`` for a checkpoint or an adapter that every replica would refuse.

    No weights are read.
    """
    open_adapters(check_model(settings.model), settings.adapters)
    ChatTokenizer.load(settings.model)


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
