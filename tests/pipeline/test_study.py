"""A study's table and picture, of figures worked out by hand."""

import itertools
import re
import xml.etree.ElementTree as ET

import pytest

from pipeline import study

STUDY = {
    "pairs": 100,
    "samples_seen": 500,
    "chance": {"demo/objects": 0.025, "demo/colours": 0.1, "digits": 0.1},
    "recipes": {
        "no_filter": {
            "rows": 1000, "images": 800, "passes": 2.5,
            "seeds": [{"demo/objects": 0.1, "demo/colours": 0.3, "digits": 0.9},
                      {"demo/objects": 0.2, "demo/colours": 0.6, "digits": 0.7}],
        },
        "one <seed>": {
            "rows": 10, "images": 8, "passes": 250.0,
            "seeds": [{"demo/objects": 0.2, "demo/colours": 0.4, "digits": 0}],
        },
    },
}  # fmt: skip


def test_the_table():
    assert study.table(STUDY).splitlines() == [
        "| recipe | rows | images | each seen | mean | demo/objects | demo/colours | digits |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
        "| no_filter | 1,000 | 800 | 2.5 times | 0.300 ± 0.141 | 0.150 ± 0.071 | 0.450 ± 0.212 | 0.800 ± 0.141 |",
        "| one <seed> | 10 | 8 | 250.0 times | 0.300 ± 0.000 | 0.200 ± 0.000 | 0.400 ± 0.000 | 0.000 ± 0.000 |",
    ]


def test_digits_are_in_no_mean():
    assert study.means(STUDY["recipes"]["no_filter"]["seeds"]) == pytest.approx([0.2, 0.4])


def test_the_picture_has_every_panel_and_recipe_and_is_the_same_each_time():
    drawn = study.picture(STUDY)
    words = [element.text for element in ET.fromstring(drawn).iter("{http://www.w3.org/2000/svg}text")]
    for title in ("mean of the world's tasks", *STUDY["chance"]):
        assert words.count(title) == 1
    for name in STUDY["recipes"]:
        assert words.count(name) == 2  # beside the first panel of each row
    assert study.picture(STUDY) == drawn


@pytest.mark.parametrize("recipes", [1, 2, 5])
def test_no_line_of_letters_lies_on_another_or_outside_the_picture(recipes):
    seeds = STUDY["recipes"]["no_filter"]["seeds"]
    drawn = ET.fromstring(study.picture(STUDY | {"recipes": {f"r{n}": {"seeds": seeds} for n in range(recipes)}}))
    places = [re.search(r"translate\(\S+ (\S+)\)|$", one.get("transform", ""))[1] or one.get("y")
              for one in drawn.iter("{http://www.w3.org/2000/svg}text")]  # fmt: skip
    lines = sorted({round(float(place)) for place in places})
    assert lines[0] > 9  # points, as a letter is tall
    assert lines[-1] < float(drawn.get("viewBox").split()[3])
    assert all(b - a <= 1 or b - a > 9 for a, b in itertools.pairwise(lines))
