"""``parse`` of the official ``openai`` client, unmodified: every answer of an untrained model parses."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, datetime, time
from enum import Enum
from typing import Annotated, Literal
from uuid import UUID

import openai
import pytest
from pydantic import BaseModel, Field

from tests.serve.apis import NAME


class Colour(Enum):
    red = "red"
    green = "green"
    dark_blue = "dark blue"


class Money(BaseModel):
    amount: float = Field(ge=0, le=100_000)
    currency: Literal["EUR", "USD", "GBP"]


class LineItem(BaseModel):
    description: str = Field(max_length=30)
    quantity: int = Field(gt=0, le=999)
    price: Money
    discount: float | None = None


class Receipt(BaseModel):
    """Nested models, a list of models, a date, an optional field."""

    shop: str
    bought: date
    items: list[LineItem] = Field(max_length=3)
    total: Money
    note: str | None


class Person(BaseModel):
    """Constrained strings and numbers, formats, an enumeration."""

    name: str = Field(min_length=1, max_length=40)
    email: str = Field(json_schema_extra={"format": "email"})
    born: date | None
    phone: str = Field(pattern=r"^\+[0-9]{2,4} [0-9]{3,8}$")
    favourite: Colour
    height: float = Field(gt=0.4, lt=2.6)


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: int = Field(ge=0, le=9)


class Dog(BaseModel):
    kind: Literal["dog"]
    good: bool = True
    tricks: list[str] = Field(max_length=2)


class Owner(BaseModel):
    """A discriminated union, and a list of one."""

    pet: Annotated[Cat | Dog, Field(discriminator="kind")]
    others: list[Annotated[Cat | Dog, Field(discriminator="kind")]] = Field(max_length=2)


class Measurement(BaseModel):
    """Unions of scalars and of models."""

    value: int | str | None
    range: tuple[float, float] | None
    source: Cat | LineItem


class Chart(BaseModel):
    """A mapping with open keys, and lists of numbers."""

    title: str
    series: dict[str, int] = Field(max_length=3)
    points: list[float] = Field(min_length=2, max_length=4)


class Event(BaseModel):
    """Times of all kinds."""

    id: UUID
    begins: datetime
    at: time
    level: Literal[1, 2, 3]


class Folder(BaseModel):
    """A recursive tree."""

    name: str = Field(max_length=12)
    children: list[Folder] = Field(max_length=2)


class Step(BaseModel):
    explanation: str
    output: str


class Reasoning(BaseModel):
    """As in OpenAI's guide."""

    steps: list[Step]
    final_answer: int


class Inspection(BaseModel):
    """Lists of enumerations and of flags; a nested optional model."""

    defects: list[Literal["scratch", "dent", "rust"]] = Field(max_length=3)
    passed: bool
    colours: list[Colour]
    repeated: Person | None


class Signature(BaseModel):
    hash: str = Field(pattern="^[0-9a-f]{8}$")
    by: Literal["sha1", "crc32"] = "crc32"


class Document(BaseModel):
    """Several levels, each with a default."""

    pages: int = Field(multiple_of=2, ge=2, le=20)
    language: str = Field(default="en", pattern="^[a-z]{2}$")
    signatures: list[Signature] = Field(default_factory=list, max_length=2)
    parts: dict[str, Signature] | None = None


MODELS = [Receipt, Person, Owner, Measurement, Chart, Event, Folder, Reasoning, Inspection, Document]
QUESTION = [{"role": "user", "content": "What is in the image?"}]


@pytest.fixture(scope="module")
def client(api: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{api}/v1", api_key="none", max_retries=0) as made:
        yield made


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("temperature", [0.0, 2.0])
def test_an_answer_parses_into_its_model(
    client: openai.OpenAI, model: type[BaseModel], temperature: float
) -> None:
    answer = client.chat.completions.parse(
        model=NAME,
        messages=QUESTION,  # type: ignore[arg-type] - pyright does not narrow the literal
        response_format=model,
        temperature=temperature,
        seed=7,
        max_tokens=400,
    )
    (choice,) = answer.choices
    assert isinstance(choice.message.parsed, model)
    assert choice.finish_reason == "stop"


def test_a_stream_parses_into_its_model(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(
        model=NAME,
        messages=QUESTION,  # type: ignore[arg-type] - as above
        response_format=Owner,
        max_tokens=200,
    ) as stream:
        texts = [event.delta for event in stream if event.type == "content.delta"]
        final = stream.get_final_completion().choices[0].message
    assert isinstance(final.parsed, Owner)
    assert "".join(texts) == final.content
