"""The schema of every setting, as one tree of dataclasses.

YAML files under ``conf/`` and the command line only give values; a key that is not here does not exist. All
that is needed to rebuild a model or to repeat a run is in the tree, and the resolved tree is saved with each
checkpoint.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from omegaconf import MISSING


class Attention(StrEnum):
    """Who may look at whom in the language tower."""

    bidirectional = "bidirectional"
    dialogue_causal = "dialogue_causal"
    causal = "causal"


class ImageMode(StrEnum):
    """How a lone image of a sample becomes views: one squashed view, or tiles with a base view in front."""

    square = "square"
    tiled = "tiled"


class Pixels(StrEnum):
    """How an image file becomes RGB.

    ``displayed``: as a viewer shows it, with EXIF orientation, transparency on white and 16-bit grey scaled.
    ``released``: by Pillow's plain conversion, as in the released trainer.
    """

    displayed = "displayed"
    released = "released"


class Template(StrEnum):
    """``plain`` is image, caption, line end; ``chat`` is the LLaDA conversation template."""

    plain = "plain"
    chat = "chat"


class Supervise(StrEnum):
    """Which tokens carry loss: answers and the template ids as released, or answers alone."""

    template = "template"
    answers = "answers"


class Precision(StrEnum):
    """Number format of weights and activations; ``float32`` is the one for CPUs and exact comparisons."""

    float32 = "float32"
    bf16 = "bf16"


class ModelPart(StrEnum):
    """The parts of the model that a stage can train and that have a learning rate each.

    The newline vector belongs to ``language``, as in the released trainer.
    """

    language = "language"
    projector = "projector"
    vision = "vision"


class SourceFormat(StrEnum):
    """How the records of a data set lie on disk."""

    json = "json"
    jsonl = "jsonl"
    parquet = "parquet"


class MissingMark(StrEnum):
    """What to do with a record that has images or a video and no mark: ``reject`` leaves it out, ``prepend``
    puts the marks in front of its first question.
    """

    reject = "reject"
    prepend = "prepend"


@dataclass
class LanguageConfig:
    """The language tower; the defaults are LLaDA-8B."""

    vocab_size: int = 126464
    width: int = 4096
    mlp_width: int = 12288
    layers: int = 32
    heads: int = 32
    kv_heads: int = 32
    """Fewer than ``heads`` shares keys and values between heads."""
    rope_theta: float = 500000.0
    norm_eps: float = 1e-5
    max_positions: int = 16384
    """Longest sequence in tokens, visual tokens included."""


@dataclass
class VisionConfig:
    """The vision tower; the defaults are siglip2-so400m-patch14-384."""

    image_size: int = 384
    """Side of a view (and of a tile) in pixels."""
    patch_size: int = 14
    width: int = 1152
    mlp_width: int = 4304
    layers: int = 27
    """Layers of the published tower; only those up to ``feature_layer`` are built and run."""
    heads: int = 16
    feature_layer: int = -2
    """Hidden state that becomes the visual tokens; -1 is the last layer's output, -2 the one's before."""
    norm_eps: float = 1e-6


@dataclass
class TokenIds:
    """Ids of LLaDA's special tokens in the vocabulary."""

    mask: int = 126336
    bos: int = 126080
    eos: int = 126081
    start_header: int = 126346
    end_header: int = 126347
    eot: int = 126348


@dataclass
class ImagesConfig:
    """Tiling of images and sampling of videos."""

    grid: int = 6
    """A tiled image has at most ``grid`` x ``grid`` tiles."""
    shrink_above_views: int = 4
    """Merged features of more than about this many views are shrunk (``anyres_max_4``)."""
    pixels: Pixels = Pixels.displayed
    """How image files become RGB; part of the model, so that serving does as training did."""
    max_frames: int = 32
    """Most frames of a video in training; of longer videos as many, evenly spread."""
    frames_per_second: float = 1.0
    """Rate at which training samples a video."""
    folder_frames: int = 10
    """Frames that training takes of a video that is a folder of frames, evenly spread."""
    inference_frames: int = 32
    """Frames that inference takes of a video, evenly spread; fewer where it has fewer."""
    frame_side: int = 14
    """A video frame's features are pooled to this many rows and columns."""
    newline_per_frame_row: bool = True
    """A newline after each row of a frame; false: a single one after the clip."""


@dataclass
class WeightsConfig:
    """Folders (or files) in a released layout that the towers start from."""

    language: str | None = None
    """LLaDA-8B-Instruct as published, or its renamed form."""
    vision: str | None = None
    """SigLIP2 as published."""
    llada_v: str | None = None
    """A whole LLaDA-V checkpoint; it replaces the other two."""


@dataclass
class ModelConfig:
    """Towers, projector and tokenizer."""

    name: str = MISSING
    """What runs with this model are called after."""
    language: LanguageConfig = field(default_factory=LanguageConfig)
    vision: VisionConfig = field(default_factory=VisionConfig)
    tokens: TokenIds = field(default_factory=TokenIds)
    images: ImagesConfig = field(default_factory=ImagesConfig)
    attention: Attention = Attention.bidirectional
    weights: WeightsConfig = field(default_factory=WeightsConfig)
    tokenizer: str = MISSING
    """Folder with ``tokenizer.json``; the language weights' folder as a rule."""


@dataclass
class LearningRates:
    """Peak learning rate of each part; parts that are not trained ignore theirs."""

    language: float = 1e-5
    projector: float = 1e-5
    vision: float = 2e-6


@dataclass
class Suffix:
    """Text appended to every human turn of a source's records, with a probability per record."""

    text: str = MISSING
    probability: float = 1.0


@dataclass
class StageConfig:
    """A stage of the curriculum; the defaults are those most stages of the paper's Table 6 share."""

    name: str = MISSING
    starts_from: str | None = None
    """The stage whose last checkpoint this one continues; none: the towers as published."""
    trained: list[ModelPart] = field(
        default_factory=lambda: [ModelPart.language, ModelPart.projector, ModelPart.vision]
    )
    """Parts that learn; the others are frozen."""
    lr: LearningRates = field(default_factory=LearningRates)
    global_batch: int = 256
    """Samples of one optimizer step, over all workers."""
    max_length: int = 8192
    """Tokens a sample is cut to, visual tokens included."""
    epochs: int = 1
    """Passes over the sources."""
    images: ImageMode = ImageMode.tiled
    template: Template = Template.chat
    sources: list[str] = field(default_factory=list)
    """Names in ``data.sources`` that the stage trains on."""
    suffixes: dict[str, Suffix] = field(default_factory=dict)
    """Per source: text appended to its human turns."""
    samples: int | None = None
    """Size of the published data set; says what was meant, sets nothing."""
    ablation: bool = False
    """A side branch of the paper: ``stage=all`` leaves it out."""


@dataclass
class ObjectiveConfig:
    """The masked-diffusion loss; the defaults are as released."""

    supervise: Supervise = Supervise.template
    stratified: bool = False
    """Spread the noise levels of a global batch evenly over [0, 1) instead of drawing them independently."""
    eos_tail: int = 0
    """Teach EOS behind the last eot, 0 to this many tokens, drawn by sample (the released data has none)."""
    min_mask_ratio: float = 1e-3
    """Mask ratio at noise level 0, so that no sample goes unmasked by rule."""
    block_length: int | None = None
    """Noise one block of so many tokens per answer, as decoding in blocks meets it, half of those of long
    answers anywhere; none: whole answers."""


@dataclass
class SourceConfig:
    """One data set on disk."""

    format: SourceFormat = MISSING
    annotations: str = MISSING
    """File or glob of the records."""
    media: str | None = None
    """Folder, tar or zip (or a glob of them) with the images and videos; none: embedded in the records."""


@dataclass
class DataConfig:
    """The data sets at hand and how they are read."""

    name: str = MISSING
    """What runs on these data sets are called after."""
    root: str = MISSING
    """Relative paths of the sources start here."""
    sources: dict[str, SourceConfig] = field(default_factory=dict)
    """Data sets by name."""
    rescale: dict[str, Any] = field(default_factory=dict)
    """Per stage: keys of ``stage`` that a data set of this size needs otherwise (batch, rates, lengths)."""
    bad_sample_budget: float = 0.001
    """Fraction of the records that may be quarantined before the run stops."""
    missing_mark: MissingMark = MissingMark.reject
    """What to do with records that have images or a video and no ``<image>`` mark."""
    tasks: int = 0
    """Preprocessing tasks at a time for each worker; 0 lets Ray Data decide."""
    prefetch: int = 4
    """Micro-batches that are ready ahead of each worker."""


@dataclass
class ClusterConfig:
    """Where a run happens and how much of it it takes."""

    name: str = MISSING
    address: str | None = None
    """Ray address; none: the cluster that runs this job, or a local one."""
    workers: int = 1
    """Data-parallel training workers."""
    min_workers: int | None = None
    """Fewest workers a run goes on with when nodes are taken away; none: exactly ``workers``."""
    resize_seconds: float = 60.0
    """With ``min_workers``: how often to look for room for more workers; their coming goes back to the last
    checkpoint."""
    cpus_per_worker: float = 1.0
    gpus_per_worker: float = 0.0
    threads_per_worker: int = 0
    """torch threads of a worker; 0: torch decides."""
    max_failures: int = 3
    """Restarts of the workers from the last checkpoint before the run gives up; where they are used up and it
    has saved a checkpoint meanwhile, it counts anew."""


@dataclass
class TrainConfig:
    """Optimizer, numerics and bookkeeping; the defaults are the published recipe."""

    run: str | None = None
    """Name of the run, a folder in ``storage``; none: made from stage, model and data."""
    storage: str = "runs"
    """Folder or URI (s3://, gs://) that holds every run."""
    scratch: str | None = None
    """Folder for checkpoints on their way to an object store; none: the system's temporary folder."""
    init: str | None = None
    """Checkpoint to start from instead of the predecessor's last."""
    seed: int = 42
    """Of the order of samples, the noise and new weights."""
    max_steps: int | None = None
    """Optimizer steps in all; none: as many as ``stage.epochs`` takes."""
    micro_batch: int = 1
    """Samples per worker and forward."""
    warmup_ratio: float = 0.03
    """Fraction of the steps over which the learning rates rise; then they fall to 0 by cosine."""
    weight_decay: float = 0.0
    betas: list[float] = field(default_factory=lambda: [0.9, 0.999])
    eps: float = 1e-8
    clip: float = 1.0
    """Largest global gradient norm."""
    precision: Precision = Precision.bf16
    activation_checkpointing: bool = True
    """Recompute activations in the backward pass to save memory."""
    loss_chunk: int = 1024
    """Masked rows that meet the vocabulary projection at a time."""
    persistence_threshold: int = 100000
    """Parameters below this many elements are not sharded by ZeRO-3."""
    checkpoint_every: int = 500
    """Steps between checkpoints."""
    keep_checkpoints: int = 2
    """Newest checkpoints that are kept."""
    log_every: int = 1
    """Steps between metrics."""


@dataclass
class Config:
    """Every setting of a run."""

    stage: StageConfig = field(default_factory=StageConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
