"""The settings of the section ``train``. ``lladav.config.schema`` exports them too."""

from dataclasses import dataclass, field

from lladav.config.choices import AdapterKind, LoraTarget, Precision, TrackerKind
from lladav.config.setting import setting

MAX_SEED = 2**63 - 1
"""The largest seed that torch accepts."""


@dataclass
class LoraConfig:
    """Low-rank adapters: ``W x`` becomes ``W x + alpha / rank * B A x`` in a layer, only A and B learn."""

    rank: int = setting(16, above=0)
    """Rows of A and columns of B."""
    alpha: int = setting(32, above=0)
    """The output of the adapters is multiplied by ``alpha / rank``."""
    dropout: float = setting(0.0, minimum=0, maximum=1)
    """Probability that training drops an element of an adapter's input."""
    lr: float = setting(2e-4, above=0)
    """Peak learning rate of the adapters; the projector, which has none, keeps ``stage.lr.projector``."""
    targets: list[LoraTarget] = field(default_factory=lambda: list(LoraTarget))
    """Linear layers with an adapter, in every layer of the trained towers."""
    vocabulary: bool = False
    """Train token embeddings and LM head in full as well, with ``lora.lr``: for answers whose tokens the base
    has never written."""


@dataclass
class TrainConfig:
    """Optimizer, numerics and bookkeeping; the defaults are the published recipe."""

    run: str | None = setting(None, is_file_name=True, non_semantic="a name")
    """Name of the run, a folder in ``storage``; null: made from stage, model and data."""
    storage: str = setting("runs", non_semantic="a path")
    """Folder or URI (s3://, gs://) that holds every run."""
    scratch: str | None = setting(None, non_semantic="a path")
    """Local folder for checkpoints before their upload to an object store; null: the system's temporary
    folder."""
    init: str | None = None
    """Checkpoint to start from instead of what ``stage.starts_from`` names: a folder, a URI or a hub id."""
    seed: int = setting(42, minimum=0, maximum=MAX_SEED)
    """Of the order of samples, the noise and new weights."""
    max_steps: int | None = setting(None, above=0)
    """Optimizer steps in total; null: as many as ``stage.epochs`` takes."""
    micro_batch: int = setting(1, above=0, non_semantic="cuts a global batch, which stays the same")
    """Samples per worker and forward pass."""
    warmup_ratio: float = setting(0.03, minimum=0, maximum=1)
    """Fraction of the steps over which the learning rates rise; then they decay to 0 by a cosine."""
    weight_decay: float = setting(0.0, minimum=0)
    """AdamW's weight decay."""
    betas: list[float] = field(default_factory=lambda: [0.9, 0.999])
    """AdamW's two decay rates of the moments."""
    eps: float = setting(1e-8, above=0)
    """AdamW's epsilon."""
    clip: float = setting(1.0, above=0)
    """Largest global gradient norm."""
    precision: Precision = Precision.bf16
    adapter: AdapterKind | None = None
    """How the towers in ``stage.trained`` learn: null: all of their weights; lora: through adapters, with
    their own weights frozen. A projector in ``stage.trained`` is trained in full in both cases."""
    lora: LoraConfig = field(default_factory=LoraConfig)
    activation_checkpointing: bool = setting(True, non_semantic="affects memory only")
    """Recompute activations in the backward pass to save memory."""
    loss_chunk: int = setting(1024, above=0, non_semantic="affects memory only")
    """Predicted positions per chunk of the vocabulary projection."""
    persistence_threshold: int = setting(100000, minimum=0, non_semantic="affects memory only")
    """Parameters below this many elements are not sharded by ZeRO-3."""
    validate_every: int = setting(100, above=0)
    """Steps between validations, if ``data.validation`` has samples; another one follows the last step."""
    patience: int | None = setting(None, above=0)
    """Consecutive validations without a new lowest loss after which the run ends; null: never."""
    checkpoint_every: int = setting(500, above=0, non_semantic="bookkeeping")
    """Steps between checkpoints."""
    keep_checkpoints: int = setting(2, above=0, non_semantic="bookkeeping")
    """Newest checkpoints that are kept, beside the one with the lowest validation loss."""
    log_every: int = setting(1, above=0, non_semantic="bookkeeping")
    """Steps between metrics."""
    trackers: list[TrackerKind] = setting(
        factory=lambda: [TrackerKind.tensorboard], non_semantic="bookkeeping"
    )
    """Where metrics, settings and answers to validation questions are shown, besides the run's folder."""
