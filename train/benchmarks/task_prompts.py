"""Prompts of benchmark tasks, as the released evaluation makes them.

The images or videos of a question become marks, joined by a blank; a line end and the text follow. A video is
one mark.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from lladav.config.schema import ModelConfig
from lladav.decoding.prompts import prompt_of
from lladav.errors import UserError
from lladav.inputs.chat import IMAGE_MARK, ChatTokenizer
from lladav.inputs.clips import read_clip
from lladav.inputs.image_files import to_rgb
from lladav.inputs.images import ViewGeometry, prepare_images
from lladav.inputs.samples import Sample, Visual


class TaskPrompts:
    """Makes the prompts of one model."""

    def __init__(
        self, config: ModelConfig, tokenizer: ChatTokenizer, frames: int | None = None, joint: str = " "
    ) -> None:
        """``frames`` is the most frames of a video, by default ``model.images.inference_frames``; ``joint``
        stands between the marks of several images."""
        self._tokenizer, self._joint = tokenizer, joint
        self._geometry = ViewGeometry.of(config)
        self._frames = frames or config.images.inference_frames

    def prompt(self, name: str, text: str, media: Sequence[Any]) -> Sample:
        """The prompt of a question about PIL images or about paths of videos; raises ``UserError``."""
        return prompt_of(name, self._content(text, len(media)), self._visuals(name, media), self._tokenizer)

    def _content(self, text: str, media: int) -> str:
        """The text behind its marks. A text that has a mark for each image keeps them where they are."""
        if not media or text.count(IMAGE_MARK) == media:
            return text
        return self._joint.join([IMAGE_MARK] * media) + "\n" + text

    def _visuals(self, name: str, media: Sequence[Any]) -> list[Visual]:
        if all(isinstance(each, Image.Image) for each in media):
            return prepare_images([to_rgb(image, self._geometry.pixels) for image in media], self._geometry)
        if all(isinstance(each, str | Path) for each in media):
            return [read_clip(Path(each), self._frames, self._geometry) for each in media]
        kinds = ", ".join(sorted({type(each).__name__ for each in media}))
        raise UserError(f"{name}: media of types {kinds}; give either PIL images or paths of videos")
