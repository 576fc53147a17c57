"""Filters on CLIP's own opinion of how well image and caption fit."""

import dataclasses
import math

from filters.best import AtLeast, Best
from metadata.errors import CurateError, unknown
from metadata.schema import MODEL_NAME, MODELS, score_column


def _columns(model: str) -> tuple[str, ...]:
    if not MODEL_NAME.fullmatch(model):
        raise unknown("model", model, MODELS, where="clip_score")
    return (score_column(model),)


@dataclasses.dataclass(frozen=True)
class ClipScore(AtLeast):
    """Keeps pairs whose CLIP score is at least `threshold`.

    Compared in float32, as the scores are: a threshold of 0.28 is the float32 nearest to 0.28. A score that is null or
    NaN is dropped.

    Args:
        model: whose score: `b32` for OpenAI's ViT-B/32, `l14` for its ViT-L/14, or a name given to `curate score`.
        threshold: a cosine.

    Source: DataComp (arXiv:2304.14108), clip_score with a threshold.
    """

    model: str
    threshold: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "columns", _columns(self.model))
        if math.isnan(self.threshold):
            raise CurateError("clip_score: threshold is NaN, but it is a cosine. Give a number, such as 0.28.")


@dataclasses.dataclass(frozen=True)
class ClipScoreFraction(Best):
    """Finishes as the ClipScore that keeps the `fraction` of all rows whose scores are highest.

    The threshold is the score at index int(rows * fraction), from 0, of all scores in descending order; rows are those
    that reached the step. Scores at the threshold stay, so it keeps one row more than int(rows * fraction), and ties.
    Null and NaN count as rows, below every score, and are never kept.

    Args:
        model: as in ClipScore.
        fraction: above 0, below 1.

    Source: DataComp (arXiv:2304.14108), clip_score with a fraction.
    Differs: where fewer rows than that have a score, every row with a score stays; DataComp keeps none.
    """

    model: str
    fraction: float
    name = "clip_score"  # type: ignore[assignment]  # what it finishes as

    def __post_init__(self) -> None:
        object.__setattr__(self, "columns", _columns(self.model))
        super().__post_init__()

    def at(self, threshold: float) -> ClipScore:
        return ClipScore(self.model, threshold)

    def place(self, rows: int) -> int:
        return int(rows * self.fraction)
