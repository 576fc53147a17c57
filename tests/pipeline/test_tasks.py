"""The task table is DataComp's, and what it doesn't have is named with its nearest match."""

import pytest

from metadata.errors import CurateError
from pipeline import tasks


def test_the_table_has_what_counts():
    assert len(tasks.DATACOMP) == 38
    assert {group: len(keys) for group, keys in tasks.GROUPS.items()} == {
        "ImageNet": 1,
        "ImageNet dist. shifts": 6,
        "VTAB": 13,
        "Retrieval": 3,
        "Average": 38,
    }
    for keys in tasks.GROUPS.values():
        assert set(keys) <= set(tasks.DATACOMP)
    other = {task.name: task.main_metric for task in tasks.DATACOMP.values() if task.main_metric != "acc1"}
    assert other == {
        **dict.fromkeys(
            ("Caltech-101", "FGVC Aircraft", "Oxford Flowers-102", "Oxford-IIIT Pet"), "mean_per_class_recall"
        ),
        **dict.fromkeys(("Flickr", "MSCOCO"), "mean_recall@1"),
        "WinoGAViL": "jaccard_score_10-12",
        "iWildCam": "F1-macro_all",
        "FMoW": "acc_worst_region",
        "Dollar Street": "acc_top5_wg",
        "GeoDE": "acc_wg",
    }


@pytest.mark.parametrize(
    ("key", "repo"),
    [
        ("cifar10", "djghosh/wds_cifar10_test"),
        ("vtab/dtd", "djghosh/wds_vtab-dtd_test"),
        ("wilds/fmow", "djghosh/wds_wilds-fmow_test"),
        ("fairness/dollar_street", "djghosh/wds_dollar_street_test"),
        ("misc/winogavil", "nlphuji/winogavil"),
        ("retrieval/flickr_1k_test_image_text_retrieval", "nlphuji/flickr_1k_test_image_text_retrieval"),
    ],
)
def test_a_task_is_where_datacomp_has_it(key, repo):
    assert tasks.DATACOMP[key].repo == repo


def test_tasks_are_named(tmp_path):
    assert tasks.named("datacomp") == list(tasks.DATACOMP.values())
    assert [task.name for task in tasks.named("vtab/dtd,cifar10,vtab/dtd")] == ["Describable Textures", "CIFAR-10"]
    path = tmp_path / "mine.yml"
    path.write_text(
        "demo/objects: {name: Objects, size: 3}\nfairness/utkface: {main_metric: null}\nx: {main_metric: acc5}\ny:\n"
    )
    assert tasks.named(str(path)) == [
        tasks.Task("demo/objects", "Objects", 3), tasks.Task("x", "x", None, "acc5"), tasks.Task("y", "y")]  # fmt: skip
    path.write_text("imagenet1k: {size: 50}\nvtab/pets:\n")
    assert tasks.named(str(path)) == [
        tasks.Task("imagenet1k", "ImageNet 1k", 50), tasks.DATACOMP["vtab/pets"]]  # fmt: skip


def test_mistakes(tmp_path):
    (tmp_path / "text.yml").write_text("a\n")
    (tmp_path / "broken.yml").write_text("a: [\n")
    (tmp_path / "path.yml").write_text("../../etc: {}\n")
    (tmp_path / "date.yml").write_text("x: {size: 2020-99-99}\n")
    (tmp_path / "deep.yml").write_text("[" * 2000)
    for name, about in ("size", "size: '12'"), ("none", "size: 0"), ("metric", "main_metric: [1]"), ("name", "name: 5"):
        (tmp_path / f"{name}.yml").write_text(f"x: {{{about}}}\n")
    for name, text in ("empty", ""), ("braces", "{}"), ("uncounted", "fairness/utkface: {}"):
        (tmp_path / f"{name}.yml").write_text(text)
    for given, told in [
        ("cifar1", "--tasks: unknown task 'cifar1'. Did you mean 'cifar10'?"),
        ("fairness/fairface", "--tasks fairness/fairface: is on DataComp's list, but only the 38 tasks"),
        (f"{tmp_path}/gone.yml", f"--tasks {tmp_path}/gone.yml: No such file or directory, but"),
        (f"{tmp_path}/text.yml", f"--tasks {tmp_path}/text.yml: is no list of tasks, but tasks are needed as plain"),
        (f"{tmp_path}/broken.yml", f"--tasks {tmp_path}/broken.yml: line 2: expected the node content, but"),
        (f"{tmp_path}/empty.yml", f"--tasks {tmp_path}/empty.yml: has no task that counts, but"),
        (f"{tmp_path}/braces.yml", f"--tasks {tmp_path}/braces.yml: has no task that counts, but"),
        (f"{tmp_path}/uncounted.yml", f"--tasks {tmp_path}/uncounted.yml: has no task that counts, but"),
        (f"{tmp_path}/path.yml", f"--tasks {tmp_path}/path.yml: the key '../../etc', but"),
        (f"{tmp_path}/date.yml", f"--tasks {tmp_path}/date.yml: month must be in 1..12, but tasks"),
        (f"{tmp_path}/deep.yml", f"--tasks {tmp_path}/deep.yml: maximum recursion depth exceeded"),
        (f"{tmp_path}/size.yml", f"--tasks {tmp_path}/size.yml: the size of x is '12', but it is a whole number"),
        (f"{tmp_path}/none.yml", f"--tasks {tmp_path}/none.yml: the size of x is 0, but it is a whole number"),
        (f"{tmp_path}/metric.yml", f"--tasks {tmp_path}/metric.yml: the main_metric of x is [1], but it is a text"),
        (f"{tmp_path}/name.yml", f"--tasks {tmp_path}/name.yml: the name of x is 5, but it is a text"),
    ]:
        with pytest.raises(CurateError) as error:
            tasks.named(given)
        assert str(error.value).startswith(told)
