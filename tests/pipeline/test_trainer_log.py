"""The trainer's log, read as it grows."""

import xml.etree.ElementTree as ET

import pytest

from pipeline.trainer_log import Log, picture

SVG = "{http://www.w3.org/2000/svg}"
HEAD = "2026-01-01,00:00:{:02d} | INFO | "
START = HEAD + "Running with a single process. Device cpu.\n"
LINE = HEAD + (
    "Train Epoch: {} [{:>5}/1000 (30%)] Data (t): 0.1 Batch (t): 0.2, 999.9/s, 999.9/s/gpu LR: 0.000500 "
    "Logit Scale: 14.286 Contrastive_loss: {} (9.0000) Loss: {} (9.0000)\n"
)


def line(second: int, epoch: int, samples: int, loss: str) -> str:
    return LINE.format(second, epoch, samples, loss, loss)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "out.log"


def test_entries_come_as_they_are_written(path):
    log = Log(str(path))
    assert not log.read()
    path.write_text(START.format(0) + line(1, 0, 100, "5.5000") + line(2, 1, 300, "4.2500")[:60])
    assert log.read()
    assert [(e.samples, e.loss) for e in log.entries] == [(100, 5.5)]
    with path.open("a") as file:
        file.write(line(2, 1, 300, "4.2500")[60:])
    assert log.read()
    assert not log.read()
    assert [(e.samples, e.loss) for e in log.entries] == [(100, 5.5), (1300, 4.25)]


def test_what_is_done_again_replaces_what_was_done(path):
    first = START.format(0) + line(1, 0, 1000, "5.0") + line(2, 1, 500, "4.0") + line(3, 1, 900, "3.9")
    path.write_text(first + START.format(40) + line(41, 1, 100, "4.5") + line(43, 1, 500, "4.1"))
    log = Log(str(path))
    assert [(e.samples, e.loss) for e in log.entries] == [(1000, 5.0), (1100, 4.5), (1500, 4.1)]
    assert log.speed() == (200.0, 2.0)  # not the pause


def test_a_speed_needs_two_moments(path):
    path.write_text(START.format(0) + line(1, 0, 100, "5.0"))
    assert Log(str(path)).speed() == (None, 0.0)


def test_a_loss_may_be_no_number(path):
    path.write_text(line(1, 0, 100, "nan"))
    (entry,) = Log(str(path)).entries
    assert entry.loss != entry.loss


def test_the_curve_is_the_same_bytes_and_shows_the_title():
    losses = [(1, 5.9), (2, 5.5), (10, 3.2)]
    drawn = picture(losses, "a model on $x$ <b>")
    assert drawn == picture(losses, "a model on $x$ <b>")
    assert b"$x$ &lt;b&gt;" in drawn


@pytest.mark.parametrize("losses", [[(7, 5.9)], [(1, 5.9), (2, float("nan")), (3, 3.2)]])
def test_a_loss_that_stands_alone_is_seen(losses):
    drawn = ET.fromstring(picture(losses, "a model"))
    (line,) = (group for group in drawn.iter(f"{SVG}g") if group.get("id") == "axes_1")
    marks = [use for use in line.iter(f"{SVG}use") if "#4c78a8" in use.get("style", "")]
    assert len(marks) == sum(loss == loss for _, loss in losses)


def test_a_long_title_is_broken_and_cut():
    words = [f"runs/number-{n}" for n in range(30)]
    texts = [text.text for text in ET.fromstring(picture([(1, 5.9)], " ".join(words))).iter(f"{SVG}text")]
    assert texts[-2:] == [" ".join(words[:4]), " ".join(words[4:8]) + " …"]
