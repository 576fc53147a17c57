"""Results are gone on with, belong to one model and its data, and average as DataComp averages them."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import tiny_model
from fake_hub import FakeHub, serving
from task_sets import NAMES, TEMPLATES, picture

from metadata.errors import CurateError
from pipeline import evaluate, folder, made_tasks, tasks
from pipeline.made_tasks import Made

OWN = [tasks.Task("own/a", "Own A"), tasks.Task("own/b", "Own B", 12, "mean_per_class_recall")]


def result(key: str, score: float) -> dict:
    return {"key": key, "dataset": key, "metrics": {"main_metric": score}}


def test_means_are_of_what_is_there():
    assert evaluate.means({}) == {}
    some = {key: result(key, score) for key, score in (("cifar10", 0.5), ("vtab/dtd", 0.2), ("vtab/svhn", 0.3))}
    assert evaluate.means(some) == {
        "VTAB": {"score": 0.25, "tasks": 2, "of": 13},
        "Average": {"score": pytest.approx(1 / 3), "tasks": 3, "of": 38},
    }
    scores = dict(zip(tasks.DATACOMP, np.random.default_rng(0).random(38).tolist(), strict=True))
    found = evaluate.means({key: result(key, score) for key, score in scores.items()} | {"x": result("x", 1.0)})
    assert found["ImageNet"] == {"score": scores["imagenet1k"], "tasks": 1, "of": 1}
    shifts = ("imagenet_sketch", "imagenetv2", "imagenet-a", "imagenet-o", "imagenet-r", "objectnet")
    assert found["ImageNet dist. shifts"]["score"] == pytest.approx(sum(scores[key] for key in shifts) / 6)
    assert found["Average"]["score"] == pytest.approx(sum(scores.values()) / 38)
    assert found["own tasks"] == {"score": 1.0, "tasks": 1, "of": 1}


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    pytest.importorskip("open_clip")
    return str(tiny_model.write(tmp_path_factory.mktemp("model") / "tiny"))


@pytest.fixture
def data(tmp_path) -> pathlib.Path:
    for number, task in enumerate(OWN):
        samples = [Made(picture(100 * number + n), "png", n % len(NAMES)) for n in range(12)]
        made_tasks.write_set(str(tmp_path / "data"), task, samples, NAMES, TEMPLATES)
    return tmp_path / "data"


@pytest.mark.slow
def test_a_finished_task_is_not_done_again(model, data, tmp_path, capsys):
    out = tmp_path / "out/results.jsonl"
    first = evaluate.run(OWN[:1], str(data), model, None, str(out), 5, False)
    assert "Own A (1 of 1): 12 images, " in capsys.readouterr().err
    line = out.read_text()
    assert json.loads(line) == first["results"]["own/a"]
    assert list(json.loads(line)) == ["key", "dataset", "metrics"]
    metrics = json.loads(line)["metrics"]
    assert metrics["main_metric"] == metrics["acc1"]
    # Its images are gone now, so it can't be.
    (data / "wds_own-a_test/test/0.tar").unlink()
    both = evaluate.run(OWN, str(data), model, None, str(out), 5, False)
    assert out.read_text().splitlines(keepends=True)[0] == line
    assert json.loads(out.read_text().splitlines()[1])["metrics"]["main_metric"] == both["results"]["own/b"]["metrics"][
        "mean_per_class_recall"
    ]  # fmt: skip
    record = json.loads((tmp_path / "out/results.json").read_text())
    assert record == {key: value for key, value in both.items() if key != "results"}
    assert {key: about["size"] for key, about in record["tasks"].items()} == {"own/a": 12, "own/b": 12}
    assert "Own B (1 of 1): 12 of 12 images" in capsys.readouterr().err
    before = out.read_bytes()
    assert evaluate.run(OWN, str(data), model, None, str(out), 5, False)["means"] == both["means"]
    assert out.read_bytes() == before


@pytest.mark.slow
@pytest.mark.parametrize("change", ["classnames.txt", "zeroshot_classification_templates.txt", "test/0.tar", "labels"])
def test_a_task_whose_files_have_changed_is_done_again(model, data, tmp_path, capsys, change):
    out, home = tmp_path / "results.jsonl", data / "wds_own-a_test"
    evaluate.run(OWN, str(data), model, None, str(out), 5, False)
    before = (home / "test/0.tar").stat().st_size
    if change == "labels":
        same = [Made(picture(n), "png", (n + 1) % len(NAMES)) for n in range(12)]
        made_tasks.write_set(str(data), OWN[0], same, NAMES, TEMPLATES)
        assert (home / "test/0.tar").stat().st_size == before
    elif change == "test/0.tar":
        made_tasks.write_set(str(data), OWN[0], [Made(picture(n), "png", 1) for n in range(7)], NAMES, TEMPLATES)
    else:
        (home / change).write_bytes((home / change).read_bytes() + b"\nof more {c}")
    capsys.readouterr()
    found = evaluate.run(OWN, str(data), model, None, str(out), 5, False)
    assert [line.split(":")[0] for line in capsys.readouterr().err.splitlines()][-1] == "Own A (1 of 1)"
    assert found["tasks"]["own/a"]["size"] == (7 if change == "test/0.tar" else 12)
    assert {json.loads(line)["key"]: json.loads(line) for line in out.read_text().splitlines()} == found["results"]
    # Where the new files can't be evaluated, there is no result of the old ones.
    (home / "test/0.tar").write_bytes(b"no tar")
    with pytest.raises(CurateError, match=r"wds_own-a_test/test/0\.tar"):
        evaluate.run(OWN, str(data), model, None, str(out), 5, False)
    assert [json.loads(line)["key"] for line in out.read_text().splitlines()] == ["own/b"]


@pytest.mark.slow
def test_results_are_of_one_model_and_one_folder(model, data, tmp_path):
    out = tmp_path / "results.jsonl"
    other = tiny_model.write(tmp_path / "other", seed=1)
    evaluate.run(OWN[:1], str(data), model, None, str(out), 5, False)
    with pytest.raises(
        CurateError, match=r"results\.json: the results beside it are of weights '?[0-9a-f]{64}.*, but this"
    ):
        evaluate.run(OWN, str(data), str(other), None, str(out), 5, False)
    os.rename(data, tmp_path / "moved")
    with pytest.raises(CurateError, match=r"the results beside it are of data .*/data, but this is data .*/moved"):
        evaluate.run(OWN, str(tmp_path / "moved"), model, None, str(out), 5, False)
    record = evaluate.run(OWN[1:], str(tmp_path / "moved"), str(other), None, str(out), 5, True)
    assert list(record["tasks"]) == [json.loads(line)["key"] for line in out.read_text().splitlines()] == ["own/b"]
    (tmp_path / "results.json").unlink()
    with pytest.raises(CurateError, match=r"are of model \(not said\), but this is model model\. Name another --out"):
        evaluate.run(OWN, str(tmp_path / "moved"), str(other), None, str(out), 5, False)


@pytest.mark.slow
def test_a_task_of_another_main_metric_is_done_again(model, data, tmp_path):
    out = tmp_path / "results.jsonl"
    first = evaluate.run(OWN[:1], str(data), model, None, str(out), 5, False)["results"]["own/a"]["metrics"]
    again = evaluate.run([OWN[0]._replace(main_metric="acc5")], str(data), model, None, str(out), 5, False)
    assert again["results"]["own/a"]["metrics"] == first | {"main_metric": first["acc5"]}
    assert first["acc5"] != first["acc1"]
    assert [json.loads(line) for line in out.read_text().splitlines()] == list(again["results"].values())


@pytest.mark.slow
def test_the_same_weights_in_other_layers_are_another_model(model, data, tmp_path):
    other = tiny_model.write(tmp_path / "other")
    out = str(tmp_path / "results.jsonl")
    evaluate.run(OWN[:1], str(data), str(other), None, out, 5, False)
    (other / "model.json").write_text(json.dumps(tiny_model.CONFIG | {"quick_gelu": True}))
    with pytest.raises(CurateError, match="the results beside it are of config_sha256 "):
        evaluate.run(OWN, str(data), str(other), None, out, 5, False)


@pytest.mark.slow
@pytest.mark.parametrize("record", ['{"weights": "x", "tasks": 3}', '{"weights": "x", "tasks": {"own/a": 3}}'])
def test_a_damaged_record_is_an_error(model, data, tmp_path, record):
    out = tmp_path / "results.jsonl"
    evaluate.run(OWN[:1], str(data), model, None, str(out), 5, False)
    (tmp_path / "results.json").write_text(record)
    with pytest.raises(CurateError, match=r"results\.json: can't be read"):
        evaluate.run(OWN, str(data), model, None, str(out), 5, False)


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("record", ["", "[]", '{"tasks": 3}', "[" * 100_000, '{"embed_dim": 512}'])
def test_a_json_of_something_else_stays_as_it_is(data, tmp_path, record, overwrite):
    (tmp_path / "model.json").write_text(record)
    told = r"model\.json: is none that `curate evaluate` wrote, but"
    with pytest.raises(CurateError, match=told):
        evaluate.run(OWN, str(data), "no such model", None, str(tmp_path / "model.jsonl"), 5, overwrite)
    assert (tmp_path / "model.json").read_text() == record


@pytest.mark.parametrize("line", ["[" * 100_000, '{"key": "a", "metrics": {"main_metric": 1%s}}' % ("0" * 400), "3"])
def test_damaged_results_are_an_error(tmp_path, line):
    (tmp_path / "results.jsonl").write_text(line + "\n")
    with pytest.raises(CurateError, match=r"results\.jsonl: line 1 is"):
        evaluate.read_results(str(tmp_path / "results.jsonl"))


@pytest.mark.slow
def test_a_task_that_fails_leaves_those_before_it(model, data, tmp_path):
    path = data / "wds_own-b_test/test/0.tar"
    sound, out = path.read_bytes(), tmp_path / "results.jsonl"
    path.write_bytes(sound[:-5000])
    with pytest.raises(CurateError, match=r"wds_own-b_test/test/0\.tar, byte .*cut off"):
        evaluate.run(OWN, str(data), model, None, str(out), 5, False)
    assert not out.exists()  # of what one look tells nothing is evaluated first
    path.write_bytes(b"x" + sound[1:])
    with pytest.raises(CurateError, match=r"wds_own-b_test/test/0\.tar, byte 0: no tar header"):
        evaluate.run(OWN, str(data), model, None, str(out), 5, False)
    assert [json.loads(line)["key"] for line in out.read_text().splitlines()] == ["own/a"]
    wrong = [OWN[0]._replace(key="own/a", main_metric="acc2")]
    with pytest.raises(
        CurateError, match=r"own/a: its main metric is to be acc2, but of its files there are only acc1, "
    ):
        evaluate.run(wrong, str(data), model, None, str(tmp_path / "new.jsonl"), 5, False)


def test_mistakes_before_the_model_is_read(data, tmp_path):
    out = tmp_path / "results.jsonl"
    (data / "wds_own-b_test/classnames.txt").unlink()
    with pytest.raises(CurateError, match=r"wds_own-b_test/classnames\.txt: is not there"):
        evaluate.run(OWN, str(data), "no such model", None, str(out), 5, False)
    out.write_text('{"key": "own/a", "metrics": {"main_metric": null}}\n')
    with pytest.raises(CurateError, match=r"results\.jsonl: line 1 is .* but results have a key and a main metric"):
        evaluate.run(OWN, str(data), "no such model", None, str(out), 5, False)


def test_two_at_once_are_not_at_work_on_one_file(data, tmp_path):
    out = str(tmp_path / "new/results.jsonl")
    with folder.alone_on(out):
        with pytest.raises(CurateError, match=r"new/results\.jsonl: another process is at work on this run\. Wait"):
            evaluate.run(OWN, str(data), "no such model", None, out, 5, False)
        with pytest.raises(CurateError, match=r"^--model"):  # of another file beside it nobody is in the way
            evaluate.run(OWN, str(data), "no such model", None, str(tmp_path / "new/b.jsonl"), 5, False)
    with pytest.raises(CurateError, match=r"^--model"):
        evaluate.run(OWN, str(data), "no such model", None, out, 5, False)


@pytest.mark.slow
def test_from_the_hub(model, data, tmp_path):
    """DataComp's own repos by their names; what was fetched is not fetched again."""
    made_tasks.write_set(str(tmp_path), tasks.DATACOMP["cifar10"], [
        Made(picture(n), "png", n % len(NAMES)) for n in range(12)
    ], NAMES, TEMPLATES)  # fmt: skip
    home = tmp_path / "wds_cifar10_test"
    files = {str(path.relative_to(home)): path.read_bytes() for path in home.rglob("*") if path.is_file()}
    with serving(FakeHub({"djghosh/wds_cifar10_test": files})) as hub:
        environment = os.environ | {
            "HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(tmp_path / "cache"),
            "PYTHONPATH": str(pathlib.Path(__file__).parents[2]),
        }  # fmt: skip

        def run(key: str, out: str) -> subprocess.CompletedProcess:
            command = [sys.executable, "-m", "jobs.cli", "evaluate", "--model", model, "--tasks", key, "--out", out]
            return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, cwd=tmp_path)

        done = run("cifar10", "a.jsonl")
        assert done.returncode == 0, done.stderr
        assert "CIFAR-10" in done.stdout
        assert "of 12; 10,000 were expected" in done.stdout
        assert "mean of 1 of 38" in done.stdout
        assert hub.sent["test/0.tar"] == len(files["test/0.tar"])
        environment["HF_HUB_OFFLINE"] = "1"
        again = run("cifar10", "b.jsonl")
        assert again.returncode == 0, again.stderr
        assert hub.sent["test/0.tar"] == len(files["test/0.tar"])
        assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()
        del environment["HF_HUB_OFFLINE"]
        missing = run("vtab/dtd", "c.jsonl")
        assert missing.returncode == 1
        assert "curate: hf://datasets/djghosh/wds_vtab-dtd_test: can't be read (" in missing.stderr
        assert "give its folder's parent as --data" in missing.stderr
