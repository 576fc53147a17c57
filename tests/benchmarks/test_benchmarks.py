"""Every benchmark at a tiny size: that it works, and that what it compares does the same. No test looks at a time."""

import importlib.util
import os
import pathlib
import subprocess
import sys

import pytest

HERE = pathlib.Path(__file__).parent


@pytest.fixture(autouse=True)
def _beside(monkeypatch):
    monkeypatch.syspath_prepend(str(HERE))


def test_a_command_is_measured_with_the_processes_it_starts():
    measure = importlib.import_module("measure")
    grandchild = "a = bytearray(200 << 20); import time; time.sleep(0.6); print('done')"
    # Its own 50 MB are more than what all the Pythons that run just now may share.
    child = f"b = bytearray(50 << 20); import subprocess, sys; subprocess.run([sys.executable, '-c', {grandchild!r}])"
    cost = measure.run([sys.executable, "-c", child])
    assert cost.wall_s >= 0.6
    assert cost.output == "done\n"
    assert 200 < cost.one_mb < 400
    assert cost.one_mb < cost.all_mb < 450
    assert cost.cpu_s > 0


def test_a_command_that_fails_is_no_measurement():
    measure = importlib.import_module("measure")
    with pytest.raises(RuntimeError, match=r"exit code 3\nbroken"):
        measure.run([sys.executable, "-c", "import sys; print('broken'); sys.exit(3)"])


def test_pairs_alternate_and_the_ratio_is_of_pairs():
    measure = importlib.import_module("measure")
    order = []

    def job(name, walls):
        def run():
            order.append(name)
            return measure.Cost(walls.pop(0), 0, 100, 200, "")

        return run

    found = measure.pairs(job("a", [1, 2, 10]), job("b", [2, 6, 10]), 3)
    assert order == ["a", "b"] * 3
    assert found.ratio() == 2
    assert found.wall_s() == (2, 6)
    assert found.memory() == "100 / 200 MB, other 100 / 200 MB"


def test_the_table_marks_what_is_missed():
    measure = importlib.import_module("measure")
    missed = measure.Row("x", "1 s", "2 s", "2.0", ">= 4", False)
    made = measure.Row("longer name", "1 s", "9 s", "9.0", ">= 4", True)
    head, rule, first, second = measure.table([missed, made]).splitlines()
    assert head.startswith("what         ours  ")
    assert set(rule) == {"-"}
    assert first.endswith(">= 4 MISSED")
    assert second.endswith(">= 4 ok")


def test_photographs_are_the_same_every_time_and_of_a_photographs_size():
    cv2, np = importlib.import_module("cv2"), importlib.import_module("numpy")
    photographs = importlib.import_module("photographs")
    data = photographs.photograph(3)
    assert data == photographs.photograph(3) != photographs.photograph(4)
    height, width, channels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED).shape
    assert channels == 3
    assert 0.5 < len(data) * 8 / (width * height) < 3


def test_a_benchmark_stops_where_results_differ(tmp_path):
    np, bench_choose = importlib.import_module("numpy"), importlib.import_module("bench_choose")
    for name, values in (("a", [(1, 2)]), ("b", [(1, 3)])):
        np.save(tmp_path / f"{name}.npy", np.array(values, "u8,u8"))
    bench_choose.check_equal(tmp_path / "a.npy", tmp_path / "a.npy")
    with pytest.raises(RuntimeError, match=r"a.npy and .*b.npy differ"):
        bench_choose.check_equal(tmp_path / "a.npy", tmp_path / "b.npy")


def test_an_unknown_benchmark_is_refused():
    found = subprocess.run([sys.executable, str(HERE / "run.py"), "chose"], capture_output=True, text=True)
    assert found.returncode == 2
    assert "chose: no such benchmark. There are choose, features, centroids, images, reshard, " in found.stderr


@pytest.mark.long
def test_choosing(tmp_path):
    bench_choose = importlib.import_module("bench_choose")
    whats = [row.what.strip().split(",")[0] for row in bench_choose.rows(tmp_path, number=1, size=3000)]
    assert [w for w in whats if w.startswith("choose")] == [f"choose {recipe}" for recipe in bench_choose.BASELINES]
    assert whats.count("over the floor") == 2
    assert whats.count("Beam's share") == 3
    assert whats.count("2 workers against 1") == 2


@pytest.mark.slow
def test_duplicates(tmp_path):
    bench_duplicates = importlib.import_module("bench_duplicates")
    whats = [row.what.strip() for row in bench_duplicates.rows(tmp_path, number=1, size=3000)]
    assert whats == ["distinct by text, 750 rows", "distinct by text, 3,000 rows", "memory with four times the rows"]


@pytest.mark.long
def test_images(tmp_path):
    bench_images = importlib.import_module("bench_images")
    whats = [row.what.strip() for row in bench_images.rows(tmp_path, number=1, size=12, distinct=3)]
    assert whats == ["12 images", "memory of all processes", "without start-up", "12 images, https"]


@pytest.mark.slow
def test_matching(tmp_path):
    pytest.importorskip("ahocorasick")
    bench_matching = importlib.import_module("bench_matching")
    whats = [row.what.strip() for row in bench_matching.rows(tmp_path, number=1, size=3000, texts=500)]
    assert [what.split(",")[0] for what in whats] == ["match 500 texts", "2 workers against 1", "compiling"]


@pytest.mark.slow
def test_balancing(tmp_path):
    pytest.importorskip("ahocorasick")
    bench_balance = importlib.import_module("bench_balance")
    whats = [row.what.split(",")[0] for row in bench_balance.rows(tmp_path, number=1, size=4000, entries=3000)]
    assert whats == ["count and sample", "metaclip"]


@pytest.mark.slow
def test_features(tmp_path):
    bench_features = importlib.import_module("bench_features")
    whats = [row.what.split(",")[0] for row in bench_features.rows(tmp_path, number=1, size=3000)]
    assert whats[:4] == ["nearest of 30 centroids", "nearest of 3", "negCLIPLoss", "SemDeDup"]
    assert whats[4:] == ["NormSim l2", "the same", "reading l14_img"]


@pytest.mark.long
def test_training(tmp_path):
    pytest.importorskip("open_clip_train")
    bench_train = importlib.import_module("bench_train")
    (row,) = bench_train.rows(tmp_path, number=1, size=1024, images=40)
    assert row.what == "train on 1,024 samples"


@pytest.mark.long
def test_scoring(tmp_path):
    pytest.importorskip("open_clip")
    bench_score = importlib.import_module("bench_score")
    assert [row.what for row in bench_score.rows(tmp_path, number=1, size=8)] == [
        "score 8 photographs, ViT-B-32, a core"
    ]


@pytest.mark.slow
def test_texts(tmp_path):
    if importlib.util.find_spec("timm") is None:
        pytest.skip("no timm")
    wordnet, errors = (importlib.import_module(f"metadata.{name}") for name in ("wordnet", "errors"))
    try:
        wordnet.installed()
    except errors.CurateError:
        pytest.skip("no WordNet where nltk looks")
    bench_texts = importlib.import_module("bench_texts")
    (row,) = bench_texts.rows(tmp_path, number=1, size=400)
    assert row.what.startswith("choose text_based, 400 rows")


@pytest.mark.long
def test_evaluating(tmp_path):
    pytest.importorskip("open_clip")
    bench_evaluate = importlib.import_module("bench_evaluate")
    assert [row.what for row in bench_evaluate.rows(tmp_path, number=1, size=400)] == [
        "evaluate 3 tasks, 1,200 images"
    ]


@pytest.mark.slow
def test_centroids(tmp_path):
    pytest.importorskip("faiss")
    bench_centroids = importlib.import_module("bench_centroids")
    assert [row.what for row in bench_centroids.rows(tmp_path, number=1, size=3000)] == [
        "k-means, 3,000 rows, 30 centroids"
    ]


@pytest.mark.slow
def test_size(tmp_path):
    bench_size = importlib.import_module("bench_size")
    whats = [row.what.strip() for row in bench_size.rows(tmp_path, number=1, size=4000, each=2000, sizes=2)]
    memory = "memory from first to last"
    assert whats[:3] == ["clip_score_balanced, 4,000 rows", "clip_score_balanced, 40,000 rows", memory]
    assert whats[3:] == ["distinct, 4,000 rows", "distinct, 40,000 rows", memory]


def test_a_process_is_measured_with_those_that_it_waited_for():
    measure = importlib.import_module("measure")
    busy = "import time\nwhile time.process_time() < 0.5: pass"
    before = measure.cpu_s(os.getpid())
    subprocess.run([sys.executable, "-c", busy], check=True)
    assert measure.cpu_s(os.getpid()) - before >= 0.4


def test_a_generated_pool_has_other_uids_in_each_file(tmp_path):
    generated_pool = importlib.import_module("generated_pool")
    pieces, pools = (importlib.import_module(f"pipeline.{name}") for name in ("pieces", "pools"))
    template = generated_pool.make_template(tmp_path, 500)
    found = pieces.inspect(pools.open_pool(f"generated:/{template}/1500", None, {}), ["uid", "text"])
    assert found.rows == 1500
    batches = [batch for piece in found.pieces for batch in pieces.batches(piece, ["uid", "text"])]
    uids = [uid for batch in batches for uid in batch["uid"].to_pylist()]
    assert len({uid[:16] for uid in uids}) == len(uids) == 1500
    assert {len(uid) for uid in uids} == {32}
    assert batches[0]["text"].equals(batches[-1]["text"])
