"""What a line of progress says."""

import re

from pipeline.progress import Line


def test_what_nobody_knows_is_left_out(capsys):
    for total in 120, 0:
        line = Line("encoding", "images", total)
        line.shown -= 60
        line.show(60)
        line.show(60, last=True)
    said = [re.sub(r"[\d,.]+/s|[\d.]+ s", "…", text) for text in capsys.readouterr().err.splitlines()]
    assert said == [
        "encoding: 60 of 120 images (50%), …, … left",
        "encoding: 60 of 120 images (50%), …, took …",
        "encoding: 60 images, …",
        "encoding: 60 images, …, took …",
    ]
