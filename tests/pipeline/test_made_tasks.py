"""The demo world's evaluation sets: the same every time, balanced, and nothing of a pool's."""

import hashlib
import pathlib

import pytest
import yaml

from metadata.errors import CurateError
from pipeline import made_tasks, task_files, tasks
from pipeline.pools.demo_pairs import pair
from pipeline.pools.demo_world import COLOURS, CONCEPTS


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("sets")
    made_tasks.write(str(folder), per_concept=1)
    return folder


def digest(folder: pathlib.Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_every_task_is_balanced_and_in_the_format(folder):
    listed = {task.key: task for task in tasks.named(str(folder / "tasklist.yml"))}
    for key, classes in (("demo/objects", 40), ("demo/colours", 10), ("demo/concepts", 400)):
        files = task_files.look(str(folder / listed[key].folder))
        labels = [sample.label for sample in files.samples()]
        assert len(files.classes) == classes
        assert {labels.count(c) for c in range(classes)} == {len(CONCEPTS) // classes}
        assert listed[key].size == len(labels) == len(CONCEPTS)
    files = task_files.look(str(folder / listed["demo/captions"].folder))
    captions = [sample.label for sample in files.samples()]
    assert {len(some) for some in captions} == {1}
    assert len({some[0] for some in captions}) == len(CONCEPTS)
    assert listed["demo/captions"].main_metric == "mean_recall@1"


def test_labels_are_what_is_drawn(folder):
    """The concept's name is its colour's and its shape's, in each of the three numberings; rows are in one order."""
    things, colours, both = (
        task_files.look(str(folder / f"wds_demo-{name}_test")) for name in ("objects", "colours", "concepts")
    )
    for thing, colour, concept in zip(things.samples(), colours.samples(), both.samples(), strict=True):
        name = f"{colours.classes[colour.label]} {things.classes[thing.label]}"
        assert both.classes[concept.label] == name
    assert colours.classes == list(COLOURS)


@pytest.mark.slow
def test_the_same_bytes_and_no_pictures_of_a_pool(folder, tmp_path):
    made_tasks.write(str(tmp_path), per_concept=1)
    assert digest(tmp_path) == digest(folder)
    pictures = [
        sample.image
        for path in folder.glob("wds_demo*")
        for sample in task_files.look(str(path)).samples()
    ]  # fmt: skip
    assert len(set(pictures)) == len(pictures) == 4 * len(CONCEPTS)
    assert set(pictures).isdisjoint(pair(0, index).sent for index in range(100))
    made_tasks.write(str(tmp_path), per_concept=1, seed=1)
    assert digest(tmp_path).keys() == digest(folder).keys()
    assert digest(tmp_path)["wds_demo-objects_test/test/0.tar"] != digest(folder)["wds_demo-objects_test/test/0.tar"]


@pytest.mark.slow
def test_digits_where_scikit_learn_is(folder):
    pytest.importorskip("sklearn")
    files = task_files.look(str(folder / "wds_digits_test"))
    labels = [sample.label for sample in files.samples()]
    assert len(labels) == 1797
    assert min(labels.count(n) for n in range(10)) > 170
    assert yaml.safe_load((folder / "tasklist.yml").read_text())["digits"]["size"] == 1797


def test_none_of_a_concept_is_no_set(tmp_path):
    with pytest.raises(CurateError, match="0 pictures of a concept were asked for, but at least 1"):
        made_tasks.write(str(tmp_path), per_concept=0)
