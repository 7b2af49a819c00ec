"""Weights & Biases: online, or with ``WANDB_MODE=offline`` in the run's folder."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from contextlib import suppress
from netrc import NetrcParseError, netrc
from pathlib import Path
from urllib.parse import urlsplit

from lladav.errors import UserError
from train.trainer.tracking.tracker import PROJECT, TEXTS, TrackedRun, Tracker, ValidationAnswer

HOST = "https://api.wandb.ai"


def check_key(environment: Mapping[str, str]) -> None:
    """Raise ``UserError`` if runs go to a server and there is no key for it."""
    if environment.get("WANDB_MODE", "online") != "online" or environment.get("WANDB_API_KEY"):
        return
    host = urlsplit(environment.get("WANDB_BASE_URL", HOST)).hostname or ""
    with suppress(OSError, NetrcParseError):
        if netrc(environment.get("NETRC") or Path.home() / ".netrc").authenticators(host):
            return
    raise UserError(
        f"train.trackers: wandb has no key for {host}; set WANDB_API_KEY, run wandb login, "
        "or set WANDB_MODE=offline"
    )


class WandbRun(Tracker):
    """Logs to a run of W&B, which a resumed run continues under the same id."""

    def __init__(self, run: TrackedRun) -> None:
        import wandb  # optional

        run.folder.mkdir(parents=True, exist_ok=True)
        self._wandb = wandb
        self._run = wandb.init(
            project=run.environment.get("WANDB_PROJECT", PROJECT),
            name=run.name,
            id=run.id_of("wandb", lambda: secrets.token_hex(4)),
            resume="allow",
            dir=run.folder,
            mode="offline" if run.environment.get("WANDB_MODE") == "offline" else None,
            config=run.settings,
            settings=wandb.Settings(console="off", silent=True),
        )
        self._known = self._run.step
        """Steps that the server has already; 0 offline."""

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        if step >= self._known:
            self._run.log(dict(numbers), step=step)

    def show(self, step: int, answers: Sequence[ValidationAnswer]) -> None:
        if step < self._known:
            return
        table = self._wandb.Table(list(TEXTS))
        for answer in answers:
            table.add_data(*answer.row.values())
        pictures = [
            self._wandb.Image(picture.transpose(1, 2, 0), caption=answer.text)
            for answer in answers
            for picture in answer.pictures
        ]
        self._run.log({"validation/answers": table, "validation/pictures": pictures}, step=step)

    def close(self) -> None:
        self._run.finish()
        self._wandb.teardown()  # waits until the files are complete
