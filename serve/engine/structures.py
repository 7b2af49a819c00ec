"""Compiles the structures of requests in an engine replica, outside of its event loop and engine thread.

The ingress has compiled the same structure before, so a request that cannot be answered does not come here.
"""

from __future__ import annotations

from lladav.decoding.params import DecodingOptions
from lladav.inputs.chat import ChatTokenizer
from lladav.structured.compiling import StructureSpec, compile_structure
from lladav.structured.errors import SchemaError
from serve.concurrency import COMPILING, ThreadOffloader
from serve.engine.messages import EngineRequest
from serve.errors import ApiError


class StructureCompiler:
    """Compiles structures in a thread of its own."""

    def __init__(self, tokenizer: ChatTokenizer) -> None:
        self._tokenizer = tokenizer
        self._offload = ThreadOffloader("structures")

    async def options_of(self, request: EngineRequest) -> DecodingOptions:
        """The options of a request, with the outline of its structure; raises ``ApiError``."""
        if request.structure is None:
            return request.options
        return await self._offload(self._structured, request.options, request.structure)

    def _structured(self, options: DecodingOptions, spec: StructureSpec) -> DecodingOptions:
        try:
            with COMPILING:
                structure = compile_structure(spec, self._tokenizer, options.max_tokens)
        except SchemaError as error:
            raise ApiError(400, str(error), code=error.code) from None
        return options.with_outline(structure.outline)
