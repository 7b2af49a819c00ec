"""Fields of other servers that clients send, and that have no effect here: each is a warning."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import BaseModel, ConfigDict

from serve.api.schemas.body import AnyObject


class IgnoredFields(BaseModel):
    """Fields without effect, first those of OpenAI, then those of vLLM."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    metadata: AnyObject | None = None
    modalities: list[Literal["text"]] | None = None
    prediction: AnyObject | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    reasoning_effort: str | None = None
    safety_identifier: str | None = None
    service_tier: str | None = None
    store: bool | None = None
    user: str | None = None
    verbosity: str | None = None
    cache_salt: str | None = None
    chat_template_kwargs: AnyObject | None = None
    include_reasoning: bool | None = None
    mm_processor_kwargs: AnyObject | None = None
    priority: int | None = None
    request_id: str | None = None
    skip_special_tokens: bool | None = None
    spaces_between_special_tokens: bool | None = None

    @property
    def ignored(self) -> Iterator[str]:
        """The fields with a value; a false ``store`` asks for what is done anyway."""
        for name in IgnoredFields.model_fields:
            value = getattr(self, name)
            if value is not None and not (name == "store" and not value):
                yield name
