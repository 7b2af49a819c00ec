"""The tiny model that lladav ships: in ``models/tiny`` of the checkout, or inside the installed package."""

from __future__ import annotations

from pathlib import Path

from lladav.checkpoint.config_fields import CONFIG
from lladav.errors import UserError

_packaged = Path(__file__).resolve().parents[1] / "models"
_models = _packaged if _packaged.is_dir() else Path(__file__).resolve().parents[3] / "models"
SHIPPED = _models / "tiny"
"""Folder of the shipped model."""


def shipped_model() -> Path:
    """The folder of the shipped model; raises ``UserError`` if it is missing."""
    if not (SHIPPED / CONFIG).is_file():
        raise UserError(
            f"{SHIPPED}: the shipped model is not there; name another one, or train it with: make tiny-model"
        )
    return SHIPPED
