"""``/v1/completions`` with several prompts and with token ids, and ``/tokenize`` for any prompt."""

from __future__ import annotations

import json
from typing import Any

import httpx2 as httpx
import openai
import pytest

from lladav.inputs.chat import ChatTokenizer, Message, encode_prompt
from serve.settings import ServeSettings
from tests.serve.apis import NAME
from tests.serve.images import encoded, sample_image, uri

TEXTS = ["One, two, ", "é €", "A much longer beginning of a text than the others, "]
SAMPLED: dict[str, Any] = {"n": 2, "temperature": 2.0, "seed": 3}
IMAGE = {"type": "image_url", "image_url": {"url": uri(encoded(sample_image()))}}


@pytest.fixture(scope="module")
def tokenizer(model_folder: Any) -> ChatTokenizer:
    return ChatTokenizer.load(model_folder)


def complete(openai_client: openai.OpenAI, prompt: Any, **given: Any) -> Any:
    return openai_client.completions.create(**{"model": NAME, "prompt": prompt, "max_tokens": 8, **given})


class TestSeveralPrompts:
    """Several prompts are answered as if each was sent alone."""

    def test_each_prompt_is_answered_as_if_alone(self, openai_client: openai.OpenAI):
        alone = [complete(openai_client, text, **SAMPLED) for text in TEXTS]
        together = complete(openai_client, TEXTS, **SAMPLED)
        assert [choice.index for choice in together.choices] == list(range(6))
        expected = [choice.text for answer in alone for choice in answer.choices]
        assert [choice.text for choice in together.choices] == expected
        assert len(set(expected)) > 3
        for field in ("prompt_tokens", "completion_tokens", "forwards"):
            assert getattr(together.usage, field) == sum(getattr(one.usage, field) for one in alone)

    def test_a_stream_gives_the_same(self, openai_client: openai.OpenAI):
        whole, texts, last = complete(openai_client, TEXTS, **SAMPLED), dict[int, str](), None
        asked = {**SAMPLED, "stream": True, "stream_options": {"include_usage": True}}
        for chunk in complete(openai_client, TEXTS, **asked):
            for choice in chunk.choices:
                texts[choice.index] = texts.get(choice.index, "") + choice.text
            last = chunk
        assert texts == {choice.index: choice.text for choice in whole.choices}
        assert last is not None
        assert last.usage == whole.usage

    def test_one_prompt_in_a_list_is_that_prompt(self, openai_client: openai.OpenAI):
        assert complete(openai_client, [TEXTS[0]]).choices == complete(openai_client, TEXTS[0]).choices

    @pytest.mark.parametrize(
        ("prompt", "param"),
        [
            ([], "prompt"),
            (["x"] * 33, "prompt"),
            (["x", 3], "prompt[1]"),
            ([3, "x"], "prompt[1]"),
            ([[3], []], "prompt[1]"),
            ([[3], [-1]], "prompt[1][0]"),
            ([[3], [10**6]], "prompt[1]"),
            ([[3], [5] * 4096], "prompt[1]"),
            (["x", "x" * 20_000], "prompt[1]"),
            ([["x"]], "prompt[0][0]"),
            ({"a": 1}, "prompt"),
        ],
    )
    def test_refusals_name_the_prompt(self, client: httpx.Client, prompt: Any, param: str):
        response = client.post("/v1/completions", json={"model": NAME, "prompt": prompt})
        error = response.json()["error"]
        assert (response.status_code, error["param"]) == (400, param), error


class TestTokens:
    """Token ids as prompts, and the token ids of prompts."""

    def test_token_ids_mean_their_text(self, openai_client: openai.OpenAI, tokenizer: ChatTokenizer):
        ids = [[tokenizer.ids.bos, *tokenizer.encode(text)] for text in TEXTS]
        texts = complete(openai_client, TEXTS)
        assert complete(openai_client, ids).choices == texts.choices
        assert complete(openai_client, ids[0]).choices[0].text == texts.choices[0].text

    def test_a_prompt_has_the_tokens_that_are_counted(
        self, client: httpx.Client, openai_client: openai.OpenAI
    ):
        found = client.post("/tokenize", json={"model": NAME, "prompt": TEXTS[0]}).json()
        assert found["count"] == len(found["tokens"]) == complete(openai_client, TEXTS[0]).usage.prompt_tokens
        assert complete(openai_client, found["tokens"]).choices == complete(openai_client, TEXTS[0]).choices
        bare = client.post("/tokenize", json={"prompt": TEXTS[0], "add_special_tokens": False}).json()
        assert bare["tokens"] == found["tokens"][1:]

    def test_messages_have_the_tokens_of_the_template(self, client: httpx.Client, tokenizer: ChatTokenizer):
        turns = [("system", "Be short."), ("user", "1 + 2?"), ("assistant", "3"), ("user", "é?")]
        messages = [{"role": role, "content": text} for role, text in turns]
        found = client.post("/tokenize", json={"messages": messages, "return_token_strs": True}).json()
        expected = encode_prompt([Message(*turn) for turn in turns], tokenizer).input_ids.tolist()
        assert found["tokens"] == expected
        assert found["token_strs"][0] == "<|startoftext|>"
        chat = {"model": NAME, "messages": messages, "max_tokens": 8}
        assert client.post("/v1/chat/completions", json=chat).json()["usage"]["prompt_tokens"] == len(
            expected
        )

    def test_tokens_become_text_again(self, client: httpx.Client, tokenizer: ChatTokenizer):
        for text in TEXTS:
            assert client.post("/detokenize", json={"tokens": tokenizer.encode(text)}).json() == {
                "prompt": text
            }
        special = [tokenizer.ids.bos, *tokenizer.encode("x")]
        assert client.post("/detokenize", json={"tokens": special}).json() == {"prompt": "<|startoftext|>x"}

    @pytest.mark.parametrize(
        ("path", "given", "status", "says"),
        [
            ("/tokenize", {}, 400, "either prompt or messages"),
            ("/tokenize", {"prompt": "x", "messages": [{"role": "user", "content": "x"}]}, 400, "either"),
            ("/tokenize", {"prompt": "x", "model": "gpt-4o"}, 404, "gpt-4o"),
            ("/tokenize", {"prompt": "x" * 200_000}, 400, "shorten"),
            ("/tokenize", {"messages": [{"role": "user", "content": [IMAGE]}]}, 400, "no token ids"),
            ("/tokenize", {"promt": "x"}, 400, "did you mean prompt"),
            ("/detokenize", {"tokens": [1], "model": "gpt-4o"}, 404, "gpt-4o"),
            ("/detokenize", {"tokens": [-1]}, 400, "tokens[0]"),
        ],
    )
    def test_refusals(self, client: httpx.Client, path: str, given: Any, status: int, says: str):
        response = client.post(path, json=given)
        assert response.status_code == status
        assert says in response.json()["error"]["message"]


def test_models_tell_their_context(client: httpx.Client, served: ServeSettings, model_folder: Any) -> None:
    (model,) = client.get("/v1/models").json()["data"]
    positions = json.loads((model_folder / "config.json").read_text())["max_position_embeddings"]
    assert (model["max_model_len"], model["max_tokens"]) == (positions, served.limits.max_tokens)
    found = client.post("/tokenize", json={"prompt": "x"}).json()
    assert found["max_model_len"] == positions
