"""One prompt about each of many images: of a folder, or those of the held-out questions."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from PIL import Image

from data.digits.descriptions import PROMPT
from lladav.errors import UserError
from lladav.inputs.image_files import LOCAL_FORMATS
from lladav.storage import absolute
from lladav.storage.local_cache import local_copy
from train.evaluate import cache_key, stage_questions
from train.evaluation.held_out import Question
from train.experiments.kind import Subject

SAMPLE_SEED = 0
MIN_SEQUENCES = 2
"""Fewer have no spread."""


@dataclass(frozen=True)
class ImageOptions:
    """The images and the prompt."""

    images: str | None = None
    """Folder or URI of images, subfolders included; none: those of the held-out questions."""
    prompt: str = PROMPT
    """Text behind each image."""
    sequences: int = 100
    """Images to draw at random, the same ones for every trial; all, if there are fewer."""

    def __post_init__(self) -> None:
        """Raise ``UserError`` for too few sequences; make the folder absolute, for tasks in other folders."""
        if self.sequences < MIN_SEQUENCES:
            raise UserError(f"experiment.options.sequences={self.sequences}: use {MIN_SEQUENCES} or more")
        if self.images is not None:
            object.__setattr__(self, "images", absolute(self.images))


def image_questions(subject: Subject, kinds: Sequence[str] = ()) -> list[Question]:
    """The prompt about each image.

    Without a folder, the images of the held-out questions about one image, of these ``kinds`` (default: all);
    ``answer`` is then that of the question. Raises ``UserError`` for fewer than two images.
    """
    options: ImageOptions = subject.options
    found = _of_folder(options.images) if options.images else _held_out(subject, kinds)
    if len(found) < MIN_SEQUENCES:
        where = options.images or f"{subject.config.data.root}/held_out"
        raise UserError(
            f"{where}: has {len(found)} images; name a folder of images in experiment.options.images"
        )
    chosen = random.Random(SAMPLE_SEED).sample(found, min(options.sequences, len(found)))
    return [replace(question, text=options.prompt) for question in chosen]


def images_key(subject: Subject) -> str:
    """Hash of the prompt, the images, the decoding settings and the library's code."""
    return cache_key(subject.config, 0, image_questions(subject), subject.trial.decoding)


def _of_folder(folder: str) -> list[Question]:
    root = local_copy(folder)
    suffixes = {
        suffix for suffix, format_ in Image.registered_extensions().items() if format_ in LOCAL_FORMATS
    }
    files = sorted(file for file in root.rglob("*") if file.suffix.lower() in suffixes)
    return [Question(str(file.relative_to(root)), "image", [file], False, "", "") for file in files]


def _held_out(subject: Subject, kinds: Sequence[str]) -> list[Question]:
    return [
        question
        for question in stage_questions(subject.config, subject.split)
        if len(question.media) == 1 and not question.is_video and (not kinds or question.type in kinds)
    ]
