"""Samples as HTML: views, tokens with the supervised ones marked, and masked versions."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from html import escape

import numpy as np
from PIL import Image

from lladav.config.schema import Config, Prediction
from lladav.diffusion.masking import Stratum, draw_noises
from lladav.inputs.chat import ChatTokenizer
from lladav.inputs.images import ViewGeometry, token_count
from lladav.inputs.packing import pack
from lladav.inputs.samples import IMAGE_PLACEHOLDER, Sample, Visual

NOISE_LEVELS = 3
"""Masked versions of a sample, one for each equal part of the noise levels."""


class SampleView:
    """Writes samples of a stage as HTML."""

    def __init__(self, config: Config) -> None:
        self._config, self._geometry = config, ViewGeometry.of(config.model)
        self._tokenizer = ChatTokenizer.load(config.model.tokenizer)

    def html(self, sample: Sample) -> Iterator[str]:
        """A section with the views, the tokens and the masked versions of a sample."""
        yield f"<section><h3>{escape(sample.id)}</h3>"
        for visual in sample.visuals:
            yield self._views(visual)
        nothing_hidden = np.zeros(len(sample.text.input_ids), bool)
        yield f"<p class=tokens>{''.join(self._tokens(sample, nothing_hidden))}</p>"
        if self._config.objective.kind is Prediction.masked:
            yield from self._masked(sample)
        yield "</section>"

    def _views(self, visual: Visual) -> str:
        shape = visual.shape
        images = [f'<img src="{_data_uri(view)}" alt="view {n}">' for n, view in enumerate(visual.views)]
        tokens = token_count(shape, self._geometry)
        about = f"{shape.kind.name} {shape.width} x {shape.height}: {shape.views} views, {tokens:,} tokens"
        return f"<figure>{''.join(images)}<figcaption>{about}</figcaption></figure>"

    def _masked(self, sample: Sample) -> Iterator[str]:
        """The sample under the noise of the first epoch, drawn from each part of the noise levels."""
        objective, packed = self._config.objective, pack([sample], self._geometry)
        for part in range(NOISE_LEVELS):
            (noise,) = draw_noises(
                packed,
                [sample.id],
                self._config.train.seed,
                0,
                self._tokenizer.ids.eos,
                objective.min_mask_ratio,
                [Stratum(part, NOISE_LEVELS)],
                objective.block_length,
            )
            hidden = np.zeros(len(sample.text.input_ids), bool)
            hidden[np.flatnonzero(sample.text.supervised)] = noise.masked
            title = f"noise level {noise.level:.2f}: {int(noise.masked.sum())} of {len(noise.masked)} masked"
            tokens = "".join(self._tokens(sample, hidden))
            yield f"<details><summary>{title}</summary><p class=tokens>{tokens}</p></details>"

    def _tokens(self, sample: Sample, hidden: np.ndarray) -> Iterator[str]:
        text, visuals = sample.text, iter(sample.visuals)
        columns = zip(text.input_ids.tolist(), text.supervised.tolist(), hidden.tolist(), strict=True)
        for token, supervised, masked in columns:
            if token == IMAGE_PLACEHOLDER:
                count = token_count(next(visuals).shape, self._geometry)
                yield f"<span class=v>{count:,} visual tokens</span>"
            else:
                kind = "m" if masked else "s" if supervised else "t"
                yield f"<span class={kind}>{'&nbsp;' if masked else _shown(self._tokenizer, token)}</span>"


def _shown(tokenizer: ChatTokenizer, token: int) -> str:
    text = escape(tokenizer.decode([token], special=True))
    return text.replace("\n", "&#8629;<br>") or "&nbsp;"


def _data_uri(view: np.ndarray) -> str:
    """A view (3, S, S) as a PNG in a data URI."""
    stream = io.BytesIO()
    Image.fromarray(view.transpose(1, 2, 0)).save(stream, "PNG")
    return f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"


def sections(config: Config, samples: Sequence[Sample]) -> Iterator[str]:
    """A section for each sample."""
    view = SampleView(config)
    for sample in samples:
        yield from view.html(sample)
