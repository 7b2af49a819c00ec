"""The routes about models: their limits and settings."""

from __future__ import annotations

import time
from typing import Any

from fastapi import FastAPI

from lladav.config.schema import Prediction
from serve.api.planning.planner import unknown_model
from serve.api.routing.openapi import ERRORS
from serve.api.routing.service import Service
from serve.settings import ServeSettings


def add_models(app: FastAPI, service: Service) -> None:
    """Add ``/v1/models``."""
    settings, prediction, started = service.settings, service.model.prediction, int(time.time())

    def description(name: str) -> dict[str, Any]:
        limits, alias = settings.limits, settings.aliases.get(name)
        params = None if alias is None else alias.model_dump(mode="json", exclude_none=True)
        root = settings.adapters.get(name)
        return {
            "id": name,
            "object": "model",
            "created": started,
            "owned_by": "lladav",
            "prediction": prediction.value,
            "max_model_len": service.model.language.max_positions,
            "max_tokens": limits.max_tokens,
            "default_max_tokens": limits.default_max_tokens,
            "max_images": settings.media.images,
            "max_videos": settings.media.videos,
            **_denoising(settings, prediction),
            **({} if params is None else {"parent": settings.name, "params": params}),
            **({} if root is None else {"parent": settings.name, "root": root}),
        }

    @app.get("/v1/models", responses=ERRORS, tags=["models"])
    async def list_models() -> dict[str, Any]:
        """The model, its adapters and aliases, and the limits of requests."""
        return {"object": "list", "data": [description(name) for name in settings.models]}

    @app.get("/v1/models/{model}", responses=ERRORS, tags=["models"])
    async def get_model(model: str) -> dict[str, Any]:
        """A model by its name."""
        if model not in settings.models:
            raise unknown_model(model, settings)
        return description(model)


def _denoising(settings: ServeSettings, prediction: Prediction) -> dict[str, Any]:
    """Settings of denoising in the description of a model; empty values if it predicts the next token."""
    if prediction is Prediction.next_token:
        return {"block_length": None, "refresh_interval": None, "efforts": []}
    dial = settings.dial
    return {
        "block_length": settings.decoding.block_length,
        "refresh_interval": {"min": dial.min, "max": dial.max, "default": dial.default},
        "efforts": sorted(dial.presets),
    }
