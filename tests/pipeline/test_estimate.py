"""The arithmetic of a plan: which files are read, and how far what they say may be off."""

import itertools

import numpy as np
import pytest

from pipeline import estimate
from pipeline.estimate import ASSUMED, COUNTED, SAMPLED, Figure


def test_files_are_spread_evenly():
    assert estimate.spread(range(9), 3) == [1, 4, 7]
    assert estimate.spread(range(2), 3) == [0, 1]
    for number, of in itertools.product(range(1, 8), range(1, 30)):
        found = estimate.spread(range(of), number)
        assert found == sorted(set(found))
        assert len(found) == min(number, of)


def test_wilsons_interval():
    # By the formula with z = 1.96, as statistics packages give it.
    assert estimate.wilson(0, 10) == pytest.approx((0, 0.27754), abs=1e-4)
    assert estimate.wilson(40, 200) == pytest.approx((0.15046, 0.26086), abs=1e-4)
    assert estimate.wilson(3, 10, left=0.0) == pytest.approx((0.3, 0.3))


def test_a_figure_is_no_better_than_what_it_is_made_of():
    rows, share = Figure(100, 90, 110, SAMPLED), Figure(0.5, 0.4, 0.7, ASSUMED)
    assert rows * share == Figure(50, 36, 77, ASSUMED)
    assert rows + estimate.known(1) == Figure(101, 91, 111, SAMPLED)
    assert (estimate.known(2) * estimate.known(3)).basis == COUNTED


def test_the_interval_of_a_mean_holds_it_as_often_as_it_says():
    rng = np.random.default_rng(0)
    files, held = rng.normal(0.3, 0.05, 12), 0
    for _ in range(2000):
        some = rng.choice(files, 4, replace=False)
        held += abs(some.mean() - files.mean()) <= estimate._half(some, len(files))
    assert 0.92 < held / 2000 < 0.99
    assert estimate._half(files, 12) == 0 == estimate._half(files[:1], 12)
