"""Metrics against plain restatements, and against scikit-learn's where it is installed."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import metrics


@st.composite
def predictions(draw):
    """Ranked classes, labels and the number of classes; not every class has images."""
    classes, images = draw(st.integers(1, 9)), draw(st.integers(1, 40))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    ranked = np.array([rng.permutation(classes)[:5] for _ in range(images)])
    return ranked, rng.integers(0, classes, images), classes


def recall_of(predicted, labels, one):
    return sum(p == one for p, label in zip(predicted, labels, strict=True) if label == one) / sum(labels == one)


def f1_of(predicted, labels, one):
    right = sum(p == one == label for p, label in zip(predicted, labels, strict=True))
    return 2 * right / (sum(predicted == one) + sum(labels == one))


@given(predictions())
@settings(max_examples=60)
def test_classification(made):
    ranked, labels, classes = made
    found = metrics.classification(ranked, labels, classes)
    images = len(labels)
    assert found["acc1"] == pytest.approx(
        sum(row[0] == label for row, label in zip(ranked, labels, strict=True)) / images
    )
    within = sum(label in row for row, label in zip(ranked, labels, strict=True)) / images
    assert found["acc5"] == (pytest.approx(within) if classes >= 5 else None)
    there = sorted(set(labels))
    assert found["mean_per_class_recall"] == pytest.approx(np.mean([recall_of(ranked[:, 0], labels, c) for c in there]))
    macro = metrics.macro_f1(ranked[:, 0], labels)
    assert macro["recall-macro_all"] == pytest.approx(found["mean_per_class_recall"])
    assert macro["acc_avg"] == pytest.approx(found["acc1"])
    assert macro["F1-macro_all"] == pytest.approx(np.mean([f1_of(ranked[:, 0], labels, c) for c in there]))


@pytest.mark.slow
@given(predictions())
@settings(max_examples=30)
def test_as_scikit_learn_has_it(made):
    sklearn = pytest.importorskip("sklearn.metrics")
    ranked, labels, classes = made
    first, there = ranked[:, 0], np.unique(labels)
    found = metrics.classification(ranked, labels, classes) | metrics.macro_f1(first, labels)
    assert found["mean_per_class_recall"] == pytest.approx(
        sklearn.recall_score(labels, first, labels=there, average="macro")
    )
    assert found["F1-macro_all"] == pytest.approx(sklearn.f1_score(labels, first, labels=there, average="macro"))


def test_groups_without_images_have_no_number():
    right, groups = np.array([True, False, True, True, False]), np.array([0, 0, 2, 2, 2])
    assert metrics.by_group(right, groups, "acc", "region", "acc_wg") == {
        "acc_avg": 0.6,
        "acc_region:0": 0.5,
        "count_region:0": 2,
        "acc_region:2": pytest.approx(2 / 3),
        "count_region:2": 3,
        "acc_wg": 0.5,
    }


@given(st.integers(1, 12), st.integers(0, 2**32), st.booleans())
@settings(max_examples=60)
def test_retrieval(images, seed, ties):
    """Against sorting every row; where numbers are equal, the first in order is nearer."""
    rng = np.random.default_rng(seed)
    image_of = np.repeat(np.arange(images), rng.integers(1, 4, images))
    rng.shuffle(image_of)
    some, texts = (rng.integers(-2, 3, (n, 3)).astype(np.float32) for n in (images, len(image_of)))
    if not ties:
        some, texts = some + rng.random(some.shape), texts + rng.random(texts.shape)
    found = metrics.retrieval(some, texts, image_of)
    cosines = texts @ some.T
    for k in (1, 5, 10):
        by_text = [image in np.argsort(-row, kind="stable")[:k] for row, image in zip(cosines, image_of, strict=True)]
        by_image = [
            any(image_of[text] == image for text in np.argsort(-row, kind="stable")[:k])
            for image, row in enumerate(cosines.T)
        ]
        assert found[f"image_retrieval_recall@{k}"] == pytest.approx(np.mean(by_text))
        assert found[f"text_retrieval_recall@{k}"] == pytest.approx(np.mean(by_image))
    assert found["mean_recall@1"] == pytest.approx(
        (found["image_retrieval_recall@1"] + found["text_retrieval_recall@1"]) / 2
    )


def test_jaccard():
    scores = [np.array([0.9, 0.1, 0.8, 0.2, 0.3]), np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6]), np.arange(10.0)]
    answers = [np.isin(np.arange(len(s)), picked) for s, picked in zip(scores, [[0, 1], [4, 5], [0]], strict=True)]
    assert metrics.jaccard(scores, answers) == {
        "avg_jaccard_score": pytest.approx((1 / 3 + 1 + 0) / 3),
        "jaccard_score_5": pytest.approx(1 / 3),
        "jaccard_score_6": 1,
        "jaccard_score_10": 0,
        "jaccard_score_5-6": pytest.approx(2 / 3),
        "jaccard_score_10-12": 0,
    }
