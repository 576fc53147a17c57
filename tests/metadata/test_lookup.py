"""Lookups equal a dictionary's, however the keys crowd."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from metadata import lookup

KEYS = st.integers(0, 2**64 - 1) | st.integers(0, 20) | st.integers(2**64 - 20, 2**64 - 1)


@given(st.sets(KEYS, max_size=60), st.lists(KEYS, max_size=60))
def test_find_equals_a_dictionary(keys, wanted):
    table = np.array(sorted(keys), np.uint64)
    which, at = lookup.find(np.array(wanted, np.uint64), table, lookup.index(table))
    places = {key: place for place, key in enumerate(sorted(keys))}
    found = dict(zip(which.tolist(), at.tolist(), strict=True))
    assert found == {n: places[key] for n, key in enumerate(wanted) if key in places}
    assert len(which) == len(found)
