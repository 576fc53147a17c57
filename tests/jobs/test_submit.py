"""`curate submit` and `curate run`: what a bundle has, where it may go, and what is refused."""

import dataclasses
import hashlib
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest
import tiny_model
from fake_hub import FakeHub, serving

from jobs import run as run_job
from jobs.cli import main
from metadata.errors import CurateError
from pipeline import models, submission
from pipeline.scales import TRAININGS
from pipeline.tasks import DATACOMP

pytest.importorskip("open_clip", reason="needs the extra: pip install '.[train]'")

pytestmark = pytest.mark.slow  # the environment of the fast tests has no extras

WHO = ["--method", "ours", "--author", "A. Person", "--email", "a@example.org"]


@pytest.fixture
def study(curate, write_pool, toy_rows, tmp_path):
    """A run without shards, a training's record and results as those of the small scale would be."""
    pool = write_pool(tmp_path / "pool", toy_rows)
    done = curate("--pool", pool, "--recipe", "clip_score_l14_30_percent", "--select-only", "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    change(tmp_path / "run/manifest.json", pool="commoncrawl", scale="small")
    small = TRAININGS["small"]
    weights = b"weights"
    (tmp_path / "model/checkpoints").mkdir(parents=True)
    (tmp_path / "model/checkpoints/epoch_latest.pt").write_bytes(weights)
    import open_clip

    config = pathlib.Path(open_clip.__file__).parent / "model_configs/ViT-B-32.json"
    (tmp_path / "model/model.json").write_text(config.read_text())
    manifest = hashlib.sha256((tmp_path / "run/manifest.json").read_bytes()).hexdigest()
    data = {"run": "runs/mine", "weight": 1.0, "samples": 300, "shards": 3, "sha256": manifest}
    record = {"scale": "small", **dataclasses.asdict(small), "beta2": 0.98, "precision": "amp", "data": [data],
              "finished": True, "loss": [[1, 8.3]],
              "samples_per_second": 9.5, "device": "cuda",
              "weights_sha256": hashlib.sha256(weights).hexdigest()}  # fmt: skip
    (tmp_path / "model/train.json").write_text(json.dumps(record))
    lines = [
        {"key": key, "dataset": task.name, "metrics": {task.main_metric: 0.25, "main_metric": 0.25}}
        for key, task in DATACOMP.items()
    ]
    (tmp_path / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    sizes = {key: {"size": task.size} for key, task in DATACOMP.items()}
    about = {"weights": record["weights_sha256"], "config_sha256": models.config_sha256(json.loads(config.read_text()))}
    (tmp_path / "results.json").write_text(json.dumps({**about, "tasks": sizes}))
    return tmp_path


def change(path: pathlib.Path, **values: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def words(study: pathlib.Path, *more: object) -> list[str]:
    given = ["submit", "--run", study / "run", "--train", study / "model", "--results", study / "results.jsonl",
             "--out", study / "bundle", "--track", "filtering", *WHO, *more]  # fmt: skip
    return list(map(str, given))


def contents(folder: pathlib.Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_bundle_is_laid_out_as_datacomps_repo(study, capsys):
    assert main(words(study, "--checkpoint", "--writeup", "https://example.org/paper")) == 0, capsys.readouterr().err
    found = contents(study / "bundle")
    assert set(found) == {
        "submission.json", "small_scale/submission.json", "small_scale/results.jsonl", "small_scale/samples/run.npy",
        "small_scale/checkpoint.pt",
    }  # fmt: skip
    assert found["small_scale/results.jsonl"] == (study / "results.jsonl").read_bytes()
    assert found["small_scale/samples/run.npy"] == (study / "run/subset.npy").read_bytes()
    assert np.load(study / "bundle/small_scale/samples/run.npy").dtype == np.dtype("u8,u8")
    sent = json.loads(found["small_scale/submission.json"])
    wanted = {"scale": "small", "track": "filtering", "method": "ours", "author": "A. Person", "dataset_size": 300,
              "writeup": "https://example.org/paper", "complete": True}  # fmt: skip
    assert {key: sent[key] for key in wanted} == wanted
    assert sent["means"]["Average"]["score"] == pytest.approx(0.25)
    assert json.loads(found["submission.json"])["email"] == "a@example.org"


def test_neither_the_email_nor_a_path_is_in_what_is_sent(study):
    assert main(words(study)) == 0
    sent = b"".join(contents(study / "bundle/small_scale").values())
    assert b"a@example.org" not in sent
    assert b"runs/mine" not in sent
    assert str(study).encode() not in sent


def test_a_bundle_is_made_again_in_its_place_and_nowhere_else(study, capsys):
    assert main(words(study, "--checkpoint")) == 0
    assert main(words(study)) == 0
    assert not (study / "bundle/small_scale/checkpoint.pt").exists()
    (study / "mine").mkdir()
    (study / "mine/x").write_text("x")
    assert main(words(study, "--out", study / "mine")) == 1
    assert "holds x but no bundle" in capsys.readouterr().err


def test_a_bundling_that_stopped_leaves_no_complete_bundle(study, capsys):
    assert main(words(study)) == 0
    (study / "run/shards").mkdir()
    (study / "run/shards/00000000.tar").write_bytes(b"no tar")
    assert main(words(study, "--track", "byod")) == 1
    assert "00000000.tar" in capsys.readouterr().err
    assert json.loads((study / "bundle/submission.json").read_text()) == {"complete": False}
    assert main(words(study)) == 0
    assert json.loads((study / "bundle/submission.json").read_text())["complete"] is True


def test_the_results_are_those_that_datacomp_reads(study, capsys):
    text = (study / "results.jsonl").read_text()
    own = json.dumps({"key": "my/own", "dataset": "Own", "metrics": {"acc1": 0.5, "main_metric": 0.5}}) + "\n"
    (study / "results.jsonl").write_text(own + text.replace('"dataset": "ImageNet 1k"', '"dataset": "imagenet1k"'))
    assert main(words(study)) == 0
    assert "left out of results.jsonl, for they are no tasks of DataComp's: my/own" in capsys.readouterr().err
    assert (study / "bundle/small_scale/results.jsonl").read_text() == text
    assert json.loads((study / "bundle/submission.json").read_text())["left_out"] == ["my/own"]


def without_a_task(study):
    lines = (study / "results.jsonl").read_text().splitlines(keepends=True)
    (study / "results.jsonl").write_text("".join(line for line in lines if '"vtab/dtd"' not in line))


def with_another_metric(study):
    text = (study / "results.jsonl").read_text()
    (study / "results.jsonl").write_text(text.replace('{"acc1": 0.25, ', '{"acc5": 0.25, ', 1))


def with_part_of_a_task(study):
    sizes = json.loads((study / "results.json").read_text())["tasks"]
    change(study / "results.json", tasks=sizes | {"imagenet1k": {"size": 60}})


def with_another_config(study):
    change(study / "model/model.json", embed_dim=4)
    config = json.loads((study / "model/model.json").read_text())
    change(study / "results.json", config_sha256=models.config_sha256(config))


LACKS = {
    "has 37 of the 38 tasks; missing are vtab/dtd": without_a_task,
    "model is RN50 and not the scale's ViT-B-32": lambda s: change(s / "model/train.json", model="RN50"),
    "samples_seen is 5 and not the scale's 12800000": lambda s: change(s / "model/train.json", samples_seen=5),
    "batch is 8 and not the scale's 4096": lambda s: change(s / "model/train.json", batch=8),
    "the main metric of cifar10 is not its acc1": with_another_metric,
    "imagenet1k is of 60 and not of 50,000": with_part_of_a_task,
    "precision is fp32 and not the scale's amp": lambda s: change(s / "model/train.json", precision="fp32"),
    "checkpoints is 1 and not the scale's 5": lambda s: change(s / "model/train.json", checkpoints=1),
    "beta2 is 0.95 and not the scale's 0.98": lambda s: change(s / "model/train.json", beta2=0.95),
    "the model is called ViT-B-32 but has another config": with_another_config,
}


@pytest.mark.parametrize("lack", LACKS)
def test_what_is_no_submission_is_bundled_only_on_demand(study, capsys, lack):
    LACKS[lack](study)
    assert main(words(study)) == 1
    error = capsys.readouterr().err
    assert "this is no submission" in error
    assert lack in error
    assert not (study / "bundle").exists()
    assert main(words(study, "--partial")) == 0
    assert lack in capsys.readouterr().err
    assert json.loads((study / "bundle/small_scale/submission.json").read_text())["complete"] is False


@pytest.mark.parametrize(
    ("changed", "lack"),
    [
        ({"pool": "demo:400", "scale": None}, "is of the pool demo:400 and not of CommonPool's small"),
        ({"scale": "medium"}, "is of the pool commoncrawl medium and not of CommonPool's small"),
        ({"limit_files": 1}, "looked at a part of its pool only"),
    ],
)
def test_a_subset_of_another_pool_is_refused_in_the_filtering_track(study, capsys, changed, lack):
    change(study / "run/manifest.json", **changed)
    record = json.loads((study / "model/train.json").read_text())
    record["data"][0]["sha256"] = hashlib.sha256((study / "run/manifest.json").read_bytes()).hexdigest()
    change(study / "model/train.json", data=record["data"])
    assert main(words(study)) == 1
    assert lack in capsys.readouterr().err


def test_a_part_of_a_pool_stays_one_when_it_is_scored(study, capsys):
    (study / "scored").mkdir()
    (study / "scored/scores.json").write_text(json.dumps({"pool": "commoncrawl", "scale": "small", "limit_files": 1}))
    test_a_subset_of_another_pool_is_refused_in_the_filtering_track(
        study, capsys, {"pool": str(study / "scored/metadata"), "scale": None}, "looked at a part of its pool only"
    )


@pytest.mark.parametrize("text", ['{"mine": 1}', "[1]", "mine"])
def test_scores_that_are_somebodys_own_say_nothing_of_the_pool(study, capsys, text):
    (study / "pool/scores.json").write_text(text)
    pool = str(study / "pool")
    test_a_subset_of_another_pool_is_refused_in_the_filtering_track(
        study, capsys, {"pool": pool, "scale": None}, f"is of the pool {pool} and not of CommonPool's small"
    )


@pytest.fixture
def resharded(study, curate):
    """The study with another training, on shards that were made by its run's subset."""
    import io
    import tarfile

    (study / "tars").mkdir()
    with tarfile.open(study / "tars/0.tar", "w") as tar:
        for n, (high, low) in enumerate(np.load(study / "run/subset.npy").tolist()):
            body = json.dumps({"uid": f"{high:016x}{low:016x}", "url": f"http://x/{n}", "caption": str(n)}).encode()
            for kind, data in ("jpg", b"image"), ("json", body), ("txt", b"text"):
                member = tarfile.TarInfo(f"{n}.{kind}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    subset = study / "run/subset.npy"
    done = curate("reshard", "--shards", study / "tars", "--subset", subset, "--out", study / "rsh", "--workers", 1)
    assert done.returncode == 0, done.stderr
    manifest = hashlib.sha256((study / "rsh/manifest.json").read_bytes()).hexdigest()
    data = {"run": str(study / "rsh"), "weight": 1.0, "samples": 300, "shards": 1, "sha256": manifest}
    change(study / "model/train.json", data=[data])
    return study


def test_a_run_whose_subset_was_resharded_can_be_submitted(resharded):
    assert main(words(resharded)) == 0
    found = contents(resharded / "bundle")
    assert found["small_scale/samples/run.npy"] == (resharded / "run/subset.npy").read_bytes()
    own, theirs = (hashlib.sha256((resharded / name / "manifest.json").read_bytes()).hexdigest()
                   for name in ("run", "rsh"))  # fmt: skip
    (data,) = json.loads(found["submission.json"])["data"]
    assert (data["run_sha256"], data["sha256"]) == (own, theirs)
    assert main(words(resharded, "--track", "byod")) == 0
    links = pq.read_table(resharded / "bundle/small_scale/samples/run.parquet")
    assert links.num_rows == len(np.load(resharded / "run/subset.npy"))


def test_shards_are_no_run_that_chose_them(resharded, capsys):
    assert main([*words(resharded), "--run", str(resharded / "rsh")]) == 1
    assert "holds what `curate reshard` wrote, but a run that chose rows is needed" in capsys.readouterr().err
    change(resharded / "rsh/manifest.json", subset={"sha256": "0" * 64})
    assert main(words(resharded)) == 1
    assert "nor what `curate reshard` made of its subset" in capsys.readouterr().err


def test_a_run_is_given_once(study, capsys):
    run = study / "run"
    assert main([*words(study), "--run", f"{run}/"]) == 1
    told = f"--run {run}: is the same run as --run {run}, but it was trained on once. Give it once."
    assert told in capsys.readouterr().err
    assert not (study / "bundle").exists()


def another_subset(study):
    np.save(study / "run/subset.npy", np.array([(1, 2)], "u8,u8"))


REFUSED = {
    "has no train.json, but a finished training does": lambda s: (s / "model/train.json").unlink(),
    "is not what `curate train` writes": lambda s: change(s / "model/train.json", finished=False),
    "is not what the training wrote": lambda s: (s / "model/checkpoints/epoch_latest.pt").write_bytes(b"other"),
    "there is no such file. Give the --out of `curate evaluate`": lambda s: (s / "results.jsonl").unlink(),
    "which model the results beside it are of": lambda s: (s / "results.json").unlink(),
    "but it says which model the results beside it": lambda s: (s / "results.json").write_text("[]"),
    "is of the weights abc, but --train has others": lambda s: change(s / "results.json", weights="abc"),
    "the same weights in other layers": lambda s: change(s / "model/model.json", quick_gelu=True),
    "model.json: can't be read (": lambda s: (s / "model/model.json").write_text("{"),
    "was not trained on as it is": lambda s: change(s / "run/manifest.json", scale="small", x=1),
    "is not what its run wrote": another_subset,
    "holds no run": lambda s: [(s / "run" / name).unlink() for name in ("manifest.json", "run.json")],
}


@pytest.mark.parametrize("words_of", REFUSED)
def test_what_doesnt_belong_together_is_refused(study, capsys, words_of):
    REFUSED[words_of](study)
    assert main(words(study, "--partial")) == 1
    assert words_of in capsys.readouterr().err
    assert not (study / "bundle").exists()


@pytest.mark.parametrize("metric", ["NaN", "1.5", "-0.1"])
def test_a_metric_is_a_fraction(study, capsys, metric):
    text = (study / "results.jsonl").read_text().replace('"main_metric": 0.25', f'"main_metric": {metric}', 1)
    (study / "results.jsonl").write_text(text)
    assert main(words(study)) == 1
    assert "from 0 to 1" in capsys.readouterr().err


def push(study: pathlib.Path, hub: FakeHub, *more: object) -> subprocess.CompletedProcess:
    shared = {"HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": "hf_test"}
    return subprocess.run(
        [sys.executable, "-m", "jobs.cli", *words(study, "--push", "me/entry", *more)],
        env=os.environ | shared, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=120,
    )  # fmt: skip


def test_a_push_shows_what_is_sent_and_needs_a_yes(study):
    with serving(FakeHub({"me/entry": {}})) as hub:
        done = push(study, hub)
        assert done.returncode == 1
        assert "nobody said yes, so nothing was sent" in done.stderr
        assert "small_scale/samples/run.npy" in done.stdout
        assert not hub.requests
        done = push(study, hub, "--yes")
        assert done.returncode == 0, done.stderr
        assert f"sent: {hub.url}/me/entry/commit/" in done.stdout
        assert {f"small_scale/{name}": body for name, body in contents(study / "bundle/small_scale").items()} == (
            hub.repos["me/entry"]
        )


def test_a_push_to_no_repo_says_so(study):
    with serving(FakeHub({})) as hub:
        done = push(study, hub, "--yes")
    assert done.returncode == 1
    assert "--push me/entry: can't be written" in done.stderr
    assert "Make the model repo on the Hub first" in done.stderr


def test_links_and_captions_come_from_the_shards(tmp_path):
    import io
    import tarfile

    (tmp_path / "shards").mkdir()
    for shard, captions in enumerate((["a", None], ["c"])):
        with tarfile.open(tmp_path / f"shards/{shard:08d}.tar", "w") as tar:
            for n, caption in enumerate(captions):
                body = json.dumps({"url": f"http://x/{shard}/{n}", "caption": caption}).encode()
                member = tarfile.TarInfo(f"{shard}{n}.json")
                member.size = len(body)
                tar.addfile(member, io.BytesIO(body))
    submission.write_links(str(tmp_path / "shards"), str(tmp_path / "links.parquet"))
    assert pq.read_table(tmp_path / "links.parquet").to_pydict() == {
        "url": ["http://x/0/0", "http://x/0/1", "http://x/1/0"],
        "text": ["a", None, "c"],
    }
    for broken in (b"", b"[]", b'{"url": 5}', b'{"caption": "\\ud800"}'):
        with tarfile.open(tmp_path / "shards/00000001.tar", "w") as tar:
            member = tarfile.TarInfo("k.json")
            member.size = len(broken)
            tar.addfile(member, io.BytesIO(broken))
        with pytest.raises(CurateError, match=r"00000001\.tar: the json of k is missing or broken"):
            submission.write_links(str(tmp_path / "shards"), str(tmp_path / "links.parquet"))


def test_the_tracks_are_those_of_the_pipeline():
    from jobs import submit

    assert submit._TRACKS == submission.TRACKS


SUBMIT = {"method": "ours", "author": "A", "email": "a@x", "track": "filtering"}


def test_stages_are_tied_together():
    given = {
        "out": "o/",
        "submit": {**SUBMIT, "checkpoint": True},
        "choose": {"scale": "small", "workers": 2},
        "score": {"pool": "commoncrawl", "model": "ViT-B-32"},
        "train": {"scale": "small"},
        "evaluate": None,
    }
    plan = dict(run_job.plan(given, "s.yaml"))
    assert list(plan) == ["score", "choose", "train", "evaluate", "submit"]
    assert plan["score"] == ["score", "--out=o/score", "--pool=commoncrawl", "--model=ViT-B-32"]
    assert plan["choose"] == ["--pool=o/score/metadata/", "--out=o/run", "--scale=small", "--workers=2"]
    assert plan["train"] == ["train", "--data=o/run", "--out=o/model", "--scale=small"]
    assert plan["evaluate"] == ["evaluate", "--model=o/model", "--out=o/results.jsonl"]
    assert {"--run=o/run", "--train=o/model", "--results=o/results.jsonl", "--out=o/bundle", "--checkpoint"} <= set(
        plan["submit"]
    )


def test_a_stage_goes_on_from_where_the_one_before_it_writes():
    given = {"out": "o", "score": {"pool": "demo", "model": "m", "out": "s/"}, "choose": {"out": "r"},
             "train": {"scale": "small"}}  # fmt: skip
    plan = dict(run_job.plan(given, "s.yaml"))
    assert plan["choose"] == ["--pool=s/metadata/", "--out=r"]
    assert plan["train"] == ["train", "--data=r", "--out=o/model", "--scale=small"]


def test_options_of_pairs_are_written_as_mappings():
    files = {"targets": "a,b.npy", "centroids": "c.npy"}
    given = {"out": "o", "choose": {"columns": {"uid": None, "text": "TEXT"}, "recipe": "image_based", "file": files}}
    words = run_job.plan(given, "s.yaml")[0][1]
    assert words == ["--out=o/run", "--columns=uid=,text=TEXT", "--recipe=image_based", "--file=targets=a,b.npy",
                     "--file=centroids=c.npy"]  # fmt: skip


def test_a_stage_may_run_on_a_cluster():
    on_flink = {"runner": "flink", "flink_master": "localhost:8081"}
    given = {"out": "o", "score": {"pool": "demo", "model": "m", **on_flink}, "choose": on_flink}
    for words in dict(run_job.plan(given, "s.yaml")).values():
        assert words[-2:] == ["--runner=flink", "--flink_master=localhost:8081"]


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"out": "o", "choose": {}, "trian": {}}, "unknown stage 'trian'. Did you mean 'train'?"),
        ({"choose": {}}, "has no `out`"),
        ({"out": "o", "train": {}}, "has no `choose`"),
        ({"out": "o", "choose": ["pool"]}, "options by name are needed"),
        ([], "has no `out`"),
        ({"out": "", "choose": {}}, "has no `out`"),
        ({"out": "o", "choose": {}, "submit": {**SUBMIT, "author": None}}, "s.yaml: submit: author has no value"),
        ({"out": "o", "choose": {"pol": "x"}}, r"^s.yaml: choose: unknown option '--pol=x'. Did you mean --pool\?$"),
        ({"out": "o", "choose": {"workers": 0}}, "^s.yaml: choose: argument --workers: '0' is given, but a whole"),
        ({"out": "o", "choose": {"flink_master": "x:1"}}, "^s.yaml: choose: --flink_master=x:1 is an option of Beam's"),
        ({"out": "o", "choose": {"help": True}}, "^s.yaml: choose: unknown option '--help'"),
        ({"out": "o", "choose": {"version": True}}, "^s.yaml: choose: unknown option '--version'"),
        ({"out": "o", "choose": {}, "train": {"h": True}}, "^s.yaml: train: "),
        ({"out": "o", "choose": {}, "train": {}}, "^s.yaml: train: the following arguments are required: --scale$"),
        ({"out": "o", "choose": {"recipe": "alin"}}, "^s.yaml: choose: unknown recipe 'alin'. Did you mean 'align'"),
        ({"out": "o", "choose": {"recipe": "no.yaml"}}, r"^s.yaml: choose: no.yaml"),
        ({"out": "o", "choose": {"recipe": "datacomp_1b"}}, "^s.yaml: choose: recipe datacomp_1b: needs a file of"),
        ({"out": "o", "choose": {}, "evaluate": {"tasks": "imagnet1k"}}, "^s.yaml: evaluate: --tasks: unknown task"),
        ({"out": "o", "choose": {}, "evaluate": {"data": "no"}}, "^s.yaml: evaluate: --data no: is no folder, but"),
        ({"out": "o", "choose": {"select-only": True}, "train": {"scale": "laptop"}},
         "^s.yaml: choose has select-only, so it makes no shards, but train needs some"),
    ],
)
def test_a_file_that_is_no_study(given, error):
    with pytest.raises(CurateError, match=error):
        run_job.plan(given, "s.yaml")


def test_rows_that_are_only_chosen_leave_the_shards_to_others():
    for train in {}, {"train": {"scale": "laptop", "data": "shards"}}:
        assert run_job.plan({"out": "o", "choose": {"select-only": True}, **train}, "s.yaml")


def test_the_stages_after_a_training_on_slurm_wait_for_it(curate, tmp_path):
    (tmp_path / "all.yaml").write_text("name: all\nsteps: []\nshards: {samples: 40}\n")
    (tmp_path / "tiny-vit.json").write_text(json.dumps(tiny_model.TO_TRAIN))
    given = {"out": "study", "choose": {"pool": "demo:120", "recipe": "all.yaml"}, "evaluate": None,
             "train": {"scale": "laptop", "model": "tiny-vit.json", "slurm": True}}  # fmt: skip
    (tmp_path / "study.yaml").write_text(json.dumps(given))
    env = os.environ | {"PYTHONPATH": str(pathlib.Path(__file__).parents[2])}
    done = curate("run", "study.yaml", cwd=tmp_path, env=env)
    assert done.returncode == 0, done.stderr
    assert "curate run: the stages after train wait for Slurm. Submit its script, then run this again." in done.stderr
    assert "curate run: evaluate" not in done.stderr
    assert (tmp_path / "study/model/train.sbatch").exists()


@pytest.mark.parametrize("option", ["--method", "--author", "--email"])
def test_who_submits_what_is_not_blank(capsys, option):
    rest = ["--run", "r", "--train", "t", "--results", "r", "--track", "byod", "--out", "o"]
    with pytest.raises(SystemExit, match="2"):
        main(["submit", *rest, *WHO, option, " "])
    assert f"{option}: ' ' is given, but DataComp lists submissions by it" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["out: o\nout: p\n", "out: &o o\nchoose: {recipe: *o}\n", "out: [\n", "out: \xff"])
def test_a_file_that_is_no_plain_yaml(tmp_path, capsys, text):
    (tmp_path / "s.yaml").write_bytes(text.encode("latin-1"))
    assert main(["run", str(tmp_path / "s.yaml")]) == 1
    assert "but stages and their options are needed as plain YAML" in capsys.readouterr().err


def test_a_wrong_word_in_the_last_stage_is_said_before_the_first_begins(tmp_path, capsys):
    (tmp_path / "s.yaml").write_text(
        f"out: {tmp_path}/o\nchoose: {{pool: demo}}\ntrain: {{scale: laptop}}\nsubmit: {{metod: x}}\n"
    )
    assert main(["run", str(tmp_path / "s.yaml")]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"curate: {tmp_path}/s.yaml: submit: the following arguments are required: --method, ")
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "o").exists()


def test_evaluation_sets_are_looked_at_before_the_first_stage_begins(tmp_path, capsys):
    (tmp_path / "sets/wds_demo-objects_test").mkdir(parents=True)
    (tmp_path / "tasks.yml").write_text("demo/objects: {name: Objects, main_metric: acc1}\n")
    (tmp_path / "s.yaml").write_text(
        f"out: {tmp_path}/o\nchoose: {{pool: demo}}\ntrain: {{scale: laptop}}\n"
        f"evaluate: {{tasks: {tmp_path}/tasks.yml, data: {tmp_path}/sets}}\n"
    )
    assert main(["run", str(tmp_path / "s.yaml")]) == 1
    error = capsys.readouterr().err
    assert "wds_demo-objects_test: has neither test/nshards.txt nor a parquet file" in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "o").exists()


def test_one_file_leads_from_a_pool_to_a_bundle_on_the_hub(curate, tmp_path):
    pytest.importorskip("open_clip_train")
    from pipeline import made_tasks

    made_tasks.write(str(tmp_path / "sets"), 1)
    (tmp_path / "tiny-vit.json").write_text(json.dumps(tiny_model.TO_TRAIN))
    (tmp_path / "all.yaml").write_text("name: all\nsteps: []\nshards: {samples: 40}\n")
    given = {
        "out": "study",
        "choose": {"pool": "demo:120", "recipe": "all.yaml"},
        "train": {"scale": "laptop", "model": "tiny-vit.json", "samples-seen": 1280, "workers": 1},
        "evaluate": {"tasks": "sets/tasklist.yml", "data": "sets"},
        "submit": {**SUBMIT, "partial": True, "checkpoint": True, "push": "me/entry", "yes": True},
    }
    (tmp_path / "study.yaml").write_text(json.dumps(given))  # JSON is YAML
    root = str(pathlib.Path(__file__).parents[2])
    with serving(FakeHub({"me/entry": {}})) as hub:
        shared = {"HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": "hf_test", "OMP_NUM_THREADS": "1"}
        env = os.environ | shared | {"PYTHONPATH": root}
        done = curate("run", "study.yaml", cwd=tmp_path, env=env)
        assert done.returncode == 0, done.stderr
        sent = dict(hub.repos["me/entry"])
        weights = tmp_path / "study/model/checkpoints/epoch_latest.pt"
        before = weights.stat().st_mtime_ns
        again = curate("run", "study.yaml", cwd=tmp_path, env=env)
        assert again.returncode == 0, again.stderr
        assert again.stdout.count("nothing to do") == 2
        assert weights.stat().st_mtime_ns == before
        assert hub.repos["me/entry"] == sent
    assert set(sent) == {
        f"laptop_scale/{name}" for name in ("results.jsonl", "samples/run.npy", "checkpoint.pt", "submission.json")
    }
    assert sent["laptop_scale/checkpoint.pt"] == weights.read_bytes()
    assert sent["laptop_scale/samples/run.npy"] == (tmp_path / "study/run/subset.npy").read_bytes()
    record = json.loads(sent["laptop_scale/submission.json"])
    assert record["means"]["own tasks"]["tasks"] > 0
    assert record["complete"] is False
