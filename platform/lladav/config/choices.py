"""The settings that accept one of several names. ``lladav.config.schema`` exports them too."""

from enum import StrEnum


class Attention(StrEnum):
    """Which positions a position of the language tower attends to."""

    bidirectional = "bidirectional"
    dialogue_causal = "dialogue_causal"
    causal = "causal"


class Prediction(StrEnum):
    """What a hidden state predicts. It decides the training loss and how the model is decoded.

    ``masked``: the token of its own position, which is masked (masked diffusion). ``next_token``: the token
    of the next position (autoregressive).
    """

    masked = "masked"
    next_token = "next_token"


class ImageMode(StrEnum):
    """How the only image of a sample becomes views: one squashed view, or a base view followed by tiles."""

    square = "square"
    tiled = "tiled"


class Pixels(StrEnum):
    """How an image file becomes RGB.

    ``displayed``: as an image viewer shows it, with EXIF orientation applied, transparency on white and
    16-bit grey scaled. ``released``: by Pillow's plain conversion, as in the released trainer.
    """

    displayed = "displayed"
    released = "released"


class Template(StrEnum):
    """``plain`` is image, caption, line end; ``chat`` is the LLaDA conversation template."""

    plain = "plain"
    chat = "chat"


class Supervise(StrEnum):
    """Which tokens carry loss: answers and the template's ids as released, or answers alone."""

    template = "template"
    answers = "answers"


class Precision(StrEnum):
    """Number format of weights and activations; use ``float32`` on CPUs and for exact comparisons."""

    float32 = "float32"
    bf16 = "bf16"


class ModelPart(StrEnum):
    """A part of the model that a stage can train and that has its own learning rate.

    The newline vector belongs to ``language``, as in the released trainer.
    """

    language = "language"
    projector = "projector"
    vision = "vision"


class AdapterKind(StrEnum):
    """How the towers learn without a change of their own weights. ``lora``: low-rank adapters."""

    lora = "lora"


class LoraTarget(StrEnum):
    """A linear layer of the towers, by its name in the released model."""

    q_proj = "q_proj"
    k_proj = "k_proj"
    v_proj = "v_proj"
    o_proj = "o_proj"
    gate_proj = "gate_proj"
    up_proj = "up_proj"
    down_proj = "down_proj"
    out_proj = "out_proj"
    fc1 = "fc1"
    fc2 = "fc2"


LORA_TARGETS = {
    ModelPart.language: [
        LoraTarget(name) for name in "q_proj k_proj v_proj o_proj gate_proj up_proj down_proj".split()
    ],
    ModelPart.vision: [LoraTarget(name) for name in "q_proj k_proj v_proj out_proj fc1 fc2".split()],
}
"""The linear layers of each tower."""


class TrackerKind(StrEnum):
    """Where the numbers and answers of a run are shown."""

    tensorboard = "tensorboard"
    wandb = "wandb"
    mlflow = "mlflow"


class SourceFormat(StrEnum):
    """File format of the records of a data set; ``arrow``: files of a Hugging Face dataset; ``webdataset``:
    tar files with the files of each sample.
    """

    json = "json"
    jsonl = "jsonl"
    parquet = "parquet"
    arrow = "arrow"
    webdataset = "webdataset"


class MissingMark(StrEnum):
    """What to do with a record that has images or a video but no ``<image>`` mark: ``reject`` skips the
    record, ``prepend`` puts the marks in front of its first question.
    """

    reject = "reject"
    prepend = "prepend"
