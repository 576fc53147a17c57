"""The numbers that zero-shot evaluations are compared by, as plain arithmetic on predictions."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


def classification(ranked: np.ndarray, labels: np.ndarray, classes: int) -> dict[str, float | None]:
    """Accuracies and mean per-class recall.

    Args:
        ranked: the five likeliest classes of each image, the likeliest first, or all where there are fewer; integers
            of shape (images, 5).
        labels: the true classes, shape (images,).

    Returns:
        acc1 and acc5 (None with fewer than 5 classes): the fraction of images whose class is the first, or among the
        five; mean_per_class_recall: the mean over the classes that have images.

    Source: clip-benchmark's zeroshot_classification; DataComp's eval_utils/wds_eval.py.
    """
    hits = ranked == labels[:, None]
    images = np.bincount(labels, minlength=classes)
    found = np.bincount(labels[hits[:, 0]], minlength=classes)
    return {
        "acc1": float(hits[:, 0].mean()),
        "acc5": float(hits.any(axis=1).mean()) if classes >= 5 else None,
        "mean_per_class_recall": float((found[images > 0] / images[images > 0]).mean()),
    }


def macro_f1(predicted: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Accuracy, recall and F1, the latter two as means over the classes that have images.

    Source: WILDS (arXiv:2012.07421), iWildCam.
    """
    classes = int(max(predicted.max(), labels.max())) + 1
    hits, images, given = (
        np.bincount(of, minlength=classes) for of in (labels[predicted == labels], labels, predicted)
    )
    there = images > 0
    return {
        "acc_avg": float((predicted == labels).mean()),
        "recall-macro_all": float((hits / np.maximum(images, 1))[there].mean()),
        "F1-macro_all": float((2 * hits / np.maximum(images + given, 1))[there].mean()),
    }


def by_group(right: np.ndarray, groups: np.ndarray, name: str, field: str, worst: str) -> dict[str, float]:
    """Accuracy in each group, and in the group where it is worst.

    Args:
        right: of each image, whether it was recognised.
        groups: whole numbers from 0.
        name: the accuracy's, such as "acc".
        field: what the groups are, such as "region".
        worst: the worst group's key in the result.

    Returns:
        Also each group's size, under DataComp's names: "acc_avg", "acc_region:0", "count_region:0", "acc_wg".

    Source: WILDS (arXiv:2012.07421). Differs: groups without images have no entry; there they have NaN.
    """
    count, hits = np.bincount(groups), np.bincount(groups, weights=right)
    there = np.flatnonzero(count)
    found = {f"{name}_avg": float(right.mean())}
    for group in there:
        found[f"{name}_{field}:{group}"] = float(hits[group] / count[group])
        found[f"count_{field}:{group}"] = float(count[group])
    return found | {worst: float((hits[there] / count[there]).min())}


class Grouping(NamedTuple):
    """Groups of a task's images: `column` of their metadata, what `field` it is, what the worst group's number is
    called, and of how many likeliest classes one must be right."""

    column: int
    field: str
    worst: str = "acc_wg"
    best: int = 1


#: By task. DataComp's worst region of FMoW may be the one that WILDS calls Other and leaves out; so it is here.
GROUPINGS = {
    "wilds/camelyon17": (Grouping(1, "slide"),),
    "wilds/fmow": (Grouping(1, "year", "acc_worst_year"), Grouping(0, "region", "acc_worst_region")),
    "fairness/dollar_street": (Grouping(0, "income_ds", "acc_top5_wg", best=5),),
    "fairness/geode": (Grouping(0, "region"),),
}


def retrieval(images: np.ndarray, texts: np.ndarray, image_of: np.ndarray) -> dict[str, float]:
    """Recall at 1, 5 and 10 of images by texts and of texts by images, and the mean of both at 1.

    An image is found by a text if it is among the k images nearest to it; a text by an image if any of the image's
    texts is among the k nearest. Of equally near ones the first in order is nearer.

    Args:
        images: features of unit length, shape (images, dims); `texts` likewise.
        image_of: of each text, the number of its image; every image has one or more.

    Source: clip-benchmark's zeroshot_retrieval; DataComp's eval_utils/retr_eval.py.
    """
    by_text = _ranks(texts, images, list(image_of[:, None]))
    order = np.argsort(image_of, kind="stable")
    own = np.split(order, np.searchsorted(image_of[order], np.arange(1, len(images))))
    by_image = _ranks(images, texts, own)
    found = {}
    for k in (1, 5, 10):
        found[f"image_retrieval_recall@{k}"] = float((by_text < k).mean())
        found[f"text_retrieval_recall@{k}"] = float((by_image < k).mean())
    found["mean_recall@1"] = (found["image_retrieval_recall@1"] + found["text_retrieval_recall@1"]) / 2
    return found


def _ranks(queries: np.ndarray, among: np.ndarray, own: Sequence[np.ndarray]) -> np.ndarray:
    """How many of `among` are nearer to each query than the nearest of its own; `own` has their numbers, ascending."""
    ranks = np.empty(len(queries), np.int64)
    step = max(1, (1 << 24) // len(among))  # 64 MB of cosines
    for start in range(0, len(queries), step):
        cosines = queries[start : start + step] @ among.T
        for row, (values, mine) in enumerate(zip(cosines, own[start : start + step], strict=True)):
            best = mine[int(np.argmax(values[mine]))]
            ranks[start + row] = (values > values[best]).sum() + (values[:best] == values[best]).sum()
    return ranks


def jaccard(scores: Sequence[np.ndarray], answers: Sequence[np.ndarray]) -> dict[str, float]:
    """How well the images that go with a cue were picked, in WinoGAViL's games.

    As many of a game's images as there are answers are picked, those that score most; the Jaccard index of both sets
    is the game's score.

    Args:
        scores: of each game, its images' scores.
        answers: of each game, which images go with the cue, as booleans, at least one of them true.

    Returns:
        Means over all games and over those with 5, 6, 10, 12, 5 or 6, 10 or 12 images (no entry where there are none).

    Source: WinoGAViL (arXiv:2207.12576); DataComp's eval_utils/wino_eval.py.
    """
    found = []
    for values, wanted in zip(scores, answers, strict=True):
        picked = np.zeros(len(values), bool)
        picked[np.argsort(values, kind="stable")[-wanted.sum() :]] = True
        found.append((picked & wanted).sum() / (picked | wanted).sum())
    games, size = np.array(found), np.array([len(values) for values in scores])
    parts = {
        "avg_jaccard_score": size > 0,
        **{f"jaccard_score_{n}": size == n for n in (5, 6, 10, 12)},
        "jaccard_score_5-6": size <= 6,
        "jaccard_score_10-12": size >= 10,
    }
    return {name: float(games[part].mean()) for name, part in parts.items() if part.any()}
