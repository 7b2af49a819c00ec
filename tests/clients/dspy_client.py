"""Checks with DSPy: predictions with typed fields, images, tools and streams."""

# pyright: reportMissingImports=false
from __future__ import annotations

from typing import Any, Literal

import dspy
from checks import BASE, IMAGE, KEY, MODEL, Checks

checks = Checks("dspy")


class SchemaLM(dspy.LM):
    """A model that supports schemas. DSPy knows that only of models in its own list."""

    supports_response_schema = True
    supported_params = frozenset(("response_format", "max_tokens", "temperature"))


lm = SchemaLM(f"openai/{MODEL}", api_base=BASE, api_key=KEY, max_tokens=256, cache=False, num_retries=0)
dspy.configure(lm=lm, adapter=dspy.JSONAdapter())


class Judge(dspy.Signature):
    """Judge a text."""

    text: str = dspy.InputField()
    mood: Literal["good", "bad"] = dspy.OutputField()
    sure: bool = dspy.OutputField()


class Look(dspy.Signature):
    """Look at an image."""

    picture: dspy.Image = dspy.InputField()
    colour: Literal["red", "blue"] = dspy.OutputField()


@checks("text")
def _() -> None:
    assert lm("How many?")[0]


@checks("typed predictions")
def _() -> None:
    made: Any = dspy.Predict(Judge)(text="Fine.")
    assert made.mood in ("good", "bad")
    assert made.sure in (True, False)


@checks("chain of thought")
def _() -> None:
    made: Any = dspy.ChainOfThought(Judge)(text="Fine.")
    assert made.mood in ("good", "bad")


@checks("images")
def _() -> None:
    made: Any = dspy.Predict(Look)(picture=dspy.Image(IMAGE))
    assert made.colour in ("red", "blue")


@checks("async")
async def _() -> None:
    made: Any = await dspy.Predict(Judge).acall(text="Fine.")
    assert made.sure in (True, False)


checks.run()
