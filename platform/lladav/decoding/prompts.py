"""Prompts of questions, and how many positions a prompt takes."""

from __future__ import annotations

from collections.abc import Sequence

from lladav.inputs.chat import IMAGE_MARK, SYSTEM_PROMPT, ChatTokenizer, Message, encode_prompt
from lladav.inputs.images import ViewGeometry, token_count
from lladav.inputs.samples import IMAGE_PLACEHOLDER, Sample, Visual


def prompt_length(prompt: Sample, geometry: ViewGeometry) -> int:
    """Positions of a prompt, visual tokens included."""
    text = int((prompt.text.input_ids != IMAGE_PLACEHOLDER).sum())
    return text + sum(token_count(visual.shape, geometry) for visual in prompt.visuals)


def question_prompt(name: str, text: str, visuals: Sequence[Visual], tokenizer: ChatTokenizer) -> Sample:
    """A question in the format of the training conversations: system turn, image marks, then the text."""
    return prompt_of(name, f"{IMAGE_MARK}\n" * len(visuals) + text, visuals, tokenizer)


def prompt_of(name: str, content: str, visuals: Sequence[Visual], tokenizer: ChatTokenizer) -> Sample:
    """A system turn and one user turn, whose ``content`` has a mark for each of its ``visuals``."""
    messages = [Message("system", SYSTEM_PROMPT), Message("user", content)]
    return Sample(name, encode_prompt(messages, tokenizer), list(visuals))
