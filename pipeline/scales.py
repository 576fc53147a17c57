"""DataComp's scales: tables, no logic. Source: arXiv:2304.14108, section 3 and appendix."""

import dataclasses
import os


@dataclasses.dataclass(frozen=True)
class Scale:
    """One row of the benchmark's table.

    Attributes:
        pool_rows: pairs in the scale's CommonPool when it was published; also the number of samples seen in training.
    """

    pool_rows: int


SCALES = {
    "small": Scale(12_800_000),
    "medium": Scale(128_000_000),
    "large": Scale(1_280_000_000),
    "xlarge": Scale(12_800_000_000),
}


@dataclasses.dataclass(frozen=True)
class Training:
    """How a scale's model is trained: what a submission may not change.

    Attributes:
        samples_seen: in all; a sample counts as often as it is seen.
        model: a name of open_clip's, or the path of a config.
        batch: of all devices together.
        lr: the highest, after the warm-up; a cosine to 0 follows.
        warmup: steps.
        beta2: of AdamW; None is what open_clip has for the model.
        checkpoints: how often the training is saved, evenly.
        grad_checkpointing: whether memory is saved by computing twice.
    """

    samples_seen: int
    model: str
    batch: int
    lr: float
    warmup: int
    beta2: float | None = None
    checkpoints: int = 5
    grad_checkpointing: bool = True


#: The config of the smallest model that learns something on two cores.
_LAPTOP = os.path.join(os.path.dirname(os.path.abspath(__file__)), "model_configs", "laptop-vit.json")

#: The benchmark's own, and two to try things with: DataComp's debug, and ours for machines without a GPU.
TRAININGS = {
    "laptop": Training(81_920, _LAPTOP, 128, 3e-3, 100, grad_checkpointing=False),
    "debug": Training(128_000, "ViT-B-32", 1024, 1e-4, 500),
    "small": Training(12_800_000, "ViT-B-32", 4096, 5e-4, 500),
    "medium": Training(128_000_000, "ViT-B-32", 4096, 5e-4, 500),
    "large": Training(1_280_000_000, "ViT-B-16", 8192, 5e-4, 500),
    "xlarge": Training(12_800_000_000, "ViT-L-14", 90_112, 1e-3, 10_000, beta2=0.95),
}
