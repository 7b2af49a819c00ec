"""The clients, their packages, and the scripts that use them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Client:
    """A client of OpenAI's API that other projects publish."""

    name: str
    title: str
    script: str
    """A file in this folder, for Python or for Node."""
    packages: tuple[str, ...]
    """Of PyPI or npm, with versions; the first is the client itself."""

    @property
    def for_node(self) -> bool:
        return self.script.endswith(".mjs")


CLIENTS = {
    client.name: client
    for client in (
        Client("openai", "openai (Python)", "openai_client.py", ("openai",)),
        Client("openai-node", "openai (Node)", "openai_node.mjs", ("openai",)),
        Client(
            "vercel",
            "Vercel AI SDK",
            "vercel_ai.mjs",
            ("ai", "@ai-sdk/openai-compatible", "@ai-sdk/openai", "zod"),
        ),
        Client("langchain", "LangChain", "langchain_client.py", ("langchain-openai", "langchain")),
        Client("llamaindex", "LlamaIndex", "llamaindex_client.py", ("llama-index-llms-openai-like",)),
        Client("litellm", "LiteLLM", "litellm_client.py", ("litellm",)),
        Client("instructor", "instructor", "instructor_client.py", ("instructor",)),
        Client("pydantic-ai", "pydantic-ai", "pydantic_ai_client.py", ("pydantic-ai-slim[openai]",)),
        Client("dspy", "DSPy", "dspy_client.py", ("dspy",)),
        Client("haystack", "Haystack", "haystack_client.py", ("haystack-ai",)),
    )
}
