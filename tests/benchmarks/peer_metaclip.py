"""MetaCLIP without Beam and without arrays: one loop over the captions around pyahocorasick, as its paper has it.

    python peer_metaclip.py POOL ENTRIES.parquet T OUT

English captions by fastText; each text's entries; their counts; a draw for each entry of each text, one success of
which keeps the pair. Writes OUT.npy, the subset in DataComp's format, and OUT.counts.npy, the count of each entry.
"""

import pathlib
import random
import sys

import ahocorasick
import fasttext
import numpy as np
import pandas as pd
from bench_matching import _normalised
from peer_datacomp import model_path, pairs_of


def main(pool: str, entries: str, t: int, out: str) -> None:
    automaton = ahocorasick.Automaton()
    listed = pd.read_parquet(entries)["entry"]
    for number, entry in enumerate(listed):
        automaton.add_word(f" {entry} ", number)
    automaton.make_automaton()
    model = fasttext.load_model(model_path())
    counts = [0] * len(listed)
    matched = []
    for path in sorted(pathlib.Path(pool).glob("*.parquet")):
        rows = pd.read_parquet(path, columns=["uid", "text"])
        for uid, text in zip(rows["uid"], rows["text"], strict=True):
            if model.predict(text.replace("\n", " "))[0][0] != "__label__en":
                continue
            found = {number for _, number in automaton.iter(_normalised(text))}
            for number in found:
                counts[number] += 1
            if found:
                matched.append((uid, found))
    kept = [uid for uid, found in matched if any(random.random() < t / counts[number] for number in found)]
    subset = pairs_of(kept)
    subset.sort()
    np.save(f"{out}.npy", subset)
    np.save(f"{out}.counts.npy", np.array(counts))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4])
