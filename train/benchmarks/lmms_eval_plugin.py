"""Registers the model ``lladav`` with LMMs-Eval, through the entry point group ``lmms_eval.models``.

LMMs-Eval is no dependency: it loads this module itself.
"""

from __future__ import annotations

from typing import Any


def manifest() -> Any:
    """The model's ``ModelManifest``.

    It is a simple model, as the released evaluation class is: a task gives it the text of a prompt and a list
    of images or videos. Chat models get messages, in which some tasks write the prompt differently.
    """
    from lmms_eval.models.registry_v2 import ModelManifest  # pyright: ignore[reportMissingImports]

    return ModelManifest("lladav", simple_class_path="train.benchmarks.lmms_eval_model.LMMsEvalModel")
