"""Scores and features are those of a plain loop over open_clip, whoever works on them, and after a kill."""

import dataclasses
import io
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Iterator

import image_server
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny_model
from conftest import write_rows
from kills import descendants
from PIL import Image

from filters.clip_score import ClipScoreFraction
from filters.normsim import NormSimFraction
from filters.recipes import Recipe
from metadata.errors import CurateError
from pipeline import curate, tars
from pipeline.options import FetchPolicy
from pipeline.score import Request, score

pytestmark = pytest.mark.slow

FILES, ROWS, BATCH = 4, 100, 7
#: One step of float16 below 1: features whose sums were rounded otherwise may end on either side of it.
STEP = np.spacing(np.float16(0.5))
DEAD, BROKEN, UNCAPTIONED = {3, 50}, {5, 99}, 10


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> tuple[str, str]:
    """A tiny model's config and weights."""
    open_clip, torch = pytest.importorskip("open_clip"), pytest.importorskip("torch")
    folder = tmp_path_factory.mktemp("model")
    config, weights = folder / "tiny-score.json", folder / "tiny.pt"
    config.write_text(json.dumps(tiny_model.CONFIG))
    open_clip.add_model_config(config)
    torch.manual_seed(0)
    torch.save(open_clip.create_model("tiny-score").state_dict(), weights)
    return str(config), str(weights)


@pytest.fixture(scope="module")
def server() -> Iterator[image_server.ImageServer]:
    with image_server.serving() as running:
        running.failing, running.broken = dict.fromkeys(DEAD, 404), BROKEN
        yield running


@pytest.fixture(scope="module")
def pool(tmp_path_factory, server) -> pathlib.Path:
    """Rows with images that are gone or cut off, and one without a caption; an npz beside each file."""
    rows = server.rows(ROWS)
    rows[UNCAPTIONED]["text"] = None
    folder = write_rows(tmp_path_factory.mktemp("scored") / "pool", rows, FILES)
    for path in folder.glob("*.parquet"):
        np.savez(path.with_suffix(".npz"), dedup=np.ones((pq.read_metadata(path).num_rows, 256), np.float32))
    return folder


def on_beam(build) -> None:
    """Runs a pipeline in this process."""
    from apache_beam import Pipeline
    from apache_beam.runners.portability.fn_api_runner import FnApiRunner

    from pipeline.failures import sentence

    try:
        with Pipeline(runner=FnApiRunner()) as pipeline:
            build(pipeline)
    except Exception as error:
        raise CurateError(sentence(error)) from error


@pytest.fixture(scope="module")
def request_of(pool, model, server):
    """request_of(out, **changes) -> a Request that scores the pool, not yet done."""

    def make(out: pathlib.Path, **changes) -> Request:
        fetch = FetchPolicy(allow_hosts=frozenset({server.host}))
        options = {"pool": str(pool), "name": "tiny", "batch": BATCH, "workers": 2, "fetch": fetch} | changes
        return Request(scale=None, model=model[0], pretrained=model[1], out=str(out), run=on_beam, **options)

    return make


@pytest.fixture(scope="module")
def scored(request_of, tmp_path_factory) -> pathlib.Path:
    out = tmp_path_factory.mktemp("runs") / "scored"
    score(request_of(out))
    return out


def tables(folder: pathlib.Path) -> pa.Table:
    return pa.concat_tables(pq.read_table(path) for path in sorted(folder.rglob("*.parquet")))


def array(folder: pathlib.Path, name: str) -> np.ndarray:
    return np.concatenate([np.load(path, allow_pickle=False)[name] for path in sorted(folder.rglob("*.npz"))])


def written(folder: pathlib.Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "metadata").iterdir()}


def number(row: dict) -> int:
    return int(row["url"].rpartition("/")[2].removesuffix(".jpg"))


def test_equal_to_a_plain_loop(pool, model, server, scored):
    import open_clip
    import torch

    before, after = tables(pool), tables(scored)
    assert after.drop_columns(["clip_tiny_similarity_score"]).equals(before)
    assert after.schema.names[-1] == "clip_tiny_similarity_score"
    assert after.schema.types[-1] == pa.float32()
    network, _, prepare = open_clip.create_model_and_transforms("tiny-score", model[1])
    tokenize = open_clip.get_tokenizer("tiny-score")
    images, texts, scores = array(scored, "tiny_img"), array(scored, "tiny_txt"), after["clip_tiny_similarity_score"]
    assert images.dtype == texts.dtype == np.float16
    for place, row in enumerate(before.to_pylist()):
        if number(row) in DEAD | BROKEN:
            assert np.isnan(images[place]).all()
            assert np.isnan(texts[place]).all()
            assert scores[place].as_py() is None
            continue
        with torch.inference_mode():
            pixels = prepare(Image.open(io.BytesIO(server.image(number(row)))).convert("RGB"))
            image = network.eval().encode_image(pixels[None], normalize=True)[0].numpy()
            text = network.encode_text(tokenize([row["text"] or ""]), normalize=True)[0].numpy()
        assert np.abs(images[place] - image.astype(np.float16)).max() <= STEP
        if number(row) == UNCAPTIONED:
            assert np.isnan(texts[place]).all()
            assert scores[place].as_py() is None
        else:
            assert np.abs(texts[place] - text.astype(np.float16)).max() <= STEP
            assert scores[place].as_py() == pytest.approx(image.astype(float) @ text, abs=5e-7)
    assert array(scored, "dedup").shape == (ROWS, 256)
    record = json.loads((scored / "scores.json").read_text())
    assert record["statuses"] == {"ok": ROWS - 5, "http_4xx": 2, "undecodable": 2, "no_caption": 1}
    assert [file["rows"] for file in record["outputs"]] == [ROWS // FILES] * FILES
    assert sorted(path.name for path in scored.iterdir()) == ["metadata", "run.json", "scores.json"]


def test_recipes_read_what_was_added(scored, tmp_path):
    values = np.random.default_rng(0).standard_normal((9, 32))
    np.save(tmp_path / "t.npy", (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float16))
    steps = (ClipScoreFraction("tiny", 0.5), NormSimFraction(str(tmp_path / "t.npy"), 0.3, embedding="tiny_img"))
    request = curate.Request(str(scored), None, Recipe("mine", steps), str(tmp_path / "run"), on_beam, select_only=True)
    assert curate.curate(request)["rows"]["kept"] == int((ROWS / 2 + 1) * 0.3)


def test_a_second_model_is_put_beside_the_first_from_shards(scored, server, request_of, tmp_path):
    (tmp_path / "run/shards").mkdir(parents=True)
    before = tables(scored)
    with tarfile.open(tmp_path / "run/shards/00000000.tar", "w") as tar:
        for place, row in enumerate(before.to_pylist()[: ROWS // 2]):
            image, fact = server.image(number(row)) if place else b"", json.dumps({"uid": row["uid"]}).encode()
            for name, data in (("mask.png", server.image(0)), ("jpg", image), ("json", fact)):
                entry = tarfile.TarInfo(f"{row['uid']}.{name}")
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))
    asked = len(server.requests)
    record = score(request_of(tmp_path / "both", pool=str(scored), name="again", shards=str(tmp_path / "run")))
    assert len(server.requests) == asked
    assert record["statuses"]["not_in_shards"] == ROWS // 2
    assert record["statuses"]["not_an_image"] == 1
    assert "too_large" not in record["statuses"]
    half = slice(ROWS // 2)
    for kind in ("img", "txt"):
        assert np.array_equal(array(tmp_path / "both", f"tiny_{kind}"), array(scored, f"tiny_{kind}"), equal_nan=True)
        first, again = array(scored, f"tiny_{kind}"), array(tmp_path / "both", f"again_{kind}")
        assert np.isnan(again[ROWS // 2 :]).all()
        both = ~np.isnan(first[half, 0]) & ~np.isnan(again[half, 0])
        assert both.sum() >= ROWS // 2 - 5
        assert np.abs(first[half][both] - again[half][both]).max() <= STEP
    again = request_of(tmp_path / "both", pool=str(scored), name="again", shards=str(tmp_path / "run"))
    assert score(again)["nothing_to_do"]
    shard = tmp_path / "run/shards/00000000.tar"
    shard.write_bytes(shard.read_bytes()[::-1])
    with pytest.raises(CurateError, match=r"holds another run \(of its shards 00000000\.tar has changed\)"):
        score(again)


@pytest.mark.parametrize(("given", "gone", "words"), [
    (".", "shards/00000001.tar", "{run}/shards: 00000001.tar is missing, but sizes.json names it."),
    ("shards", "shards/00000001.tar", "{run}/shards: 00000001.tar is missing, but sizes.json names it."),
    (".", "manifest.json", "--shards {run}/.: its run is unfinished, but shards are read when all are there."),
    ("shards", "manifest.json", "--shards {run}/shards: its run is unfinished, but"),
    (".", "shards/sizes.json", "shards/sizes.json: is missing, but"),
])  # fmt: skip
def test_shards_of_a_run_are_whole(request_of, tmp_path, given, gone, words):
    run = tmp_path / "run"
    (run / "shards").mkdir(parents=True)
    for name in ("run.json", "manifest.json"):
        (run / name).write_text("{}")
    for number in range(2):
        (run / f"shards/{number:08d}.tar").write_bytes(tars.END)
    (run / "shards/sizes.json").write_text('{"00000000.tar": 0, "00000001.tar": 0}')
    (run / gone).unlink()
    with pytest.raises(CurateError) as error:
        score(request_of(tmp_path / "out", shards=f"{run}/{given}"))
    assert words.format(run=run) in str(error.value).replace("/./", "/")
    assert not (tmp_path / "out").exists()


def test_a_score_that_is_no_number_is_none(request_of, model, tmp_path):
    import torch

    weights = torch.load(model[1], weights_only=True)
    weights["text_projection"][0] = torch.nan
    torch.save(weights, tmp_path / "broken.pt")
    asked = dataclasses.replace(request_of(tmp_path / "out", limit_files=1), pretrained=str(tmp_path / "broken.pt"))
    record = score(asked)
    assert record["statuses"]["no_number"] > 20
    assert "ok" not in record["statuses"]
    assert tables(tmp_path / "out").column("clip_tiny_similarity_score").null_count == ROWS // FILES


def test_a_pools_npz_that_is_damaged_is_named_and_what_was_scored_is_kept(pool, server, scored, request_of, tmp_path):
    shutil.copytree(pool, tmp_path / "pool")
    npz = sorted((tmp_path / "pool").glob("*.npz"))[1]
    whole = npz.read_bytes()
    npz.write_bytes(whole[:5000] + bytes([whole[5000] ^ 1]) + whole[5001:])
    request = request_of(tmp_path / "out", pool=str(tmp_path / "pool"))
    with pytest.raises(CurateError, match=rf"^{npz}: 'dedup\.npy' can't be read \(Bad CRC-32 .* Fetch it again, and"):
        score(request)
    npz.write_bytes(whole)
    asked = len(server.requests)
    score(request)
    own = {number(row) for row in pq.read_table(npz.with_suffix(".parquet")).to_pylist()}
    assert own.isdisjoint(number({"url": path}) for path in server.requests[asked:])
    assert written(tmp_path / "out") == written(scored)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": None}, "--model tiny-score: no --as was given, but columns are called by one"),
        ({"name": "a_b"}, "--as a_b: is no lower-case word, but"),
        ({"name": "l14"}, "--as l14: is of 768 dimensions, but tiny-score has 32."),
        ({"pool": "{scored}"}, "has a column 'clip_tiny_similarity_score', but the scores are to be called so."),
        ({"shards": "{pool}"}, "--shards {pool}: no tars there, but"),
        ({"out": "{pool}/x"}, "--out {pool}/x: lies in --pool {pool}, but what is written there would become"),
        ({"pool": "{scored}/m*/*", "name": "n", "out": "{scored}"}, "lies in --out {scored}, but what is read must"),
        ({"shards": "{scored}", "out": "{scored}"}, "--shards {scored}: lies in --out {scored}, but"),
        ({"out": "{scored}", "batch": 5}, "holds another run (batch was 7, now 5)"),
    ],
)
def test_mistakes_are_told_before_the_first_image(request_of, pool, scored, server, tmp_path, changes, words):
    def filled(value):
        return value.format(pool=pool, scored=scored) if isinstance(value, str) else value

    changes = {key: filled(value) for key, value in changes.items()}
    asked = len(server.requests)
    with pytest.raises(CurateError) as error:
        score(request_of(changes.pop("out", tmp_path / "out"), **changes))
    assert filled(words) in str(error.value)
    assert len(server.requests) == asked


@pytest.mark.parametrize(("kind", "words"), [
    ("parquet", "{file}.parquet: has a column 'clip_tiny_similarity_score', but the scores are to be called so."),
    ("npz", "{file}.npz: has an array 'tiny_txt', but the scores are to be called so. Give another name by --as."),
])  # fmt: skip
def test_a_name_that_only_a_later_file_has_is_told_before_the_first_image(
    request_of, pool, server, tmp_path, kind, words
):
    shutil.copytree(pool, tmp_path / "pool")
    file = sorted((tmp_path / "pool").glob("*.parquet"))[2]
    if kind == "npz":
        np.savez(file.with_suffix(".npz"), tiny_txt=np.ones((ROWS // FILES, 32), np.float16))
    else:
        table = pq.read_table(file)
        pq.write_table(table.append_column("clip_tiny_similarity_score", pa.nulls(len(table), pa.float32())), file)
    asked = len(server.requests)
    with pytest.raises(CurateError) as error:
        score(request_of(tmp_path / "out", pool=str(tmp_path / "pool")))
    assert words.format(file=file.with_suffix("")) in str(error.value)
    assert len(server.requests) == asked
    assert not (tmp_path / "out").exists()


def test_weights_that_change_after_the_run_has_begun(request_of, model, tmp_path):
    """As those of a training that is going on do."""
    import torch

    weights = tmp_path / "weights.pt"
    weights.write_bytes(pathlib.Path(model[1]).read_bytes())

    def run(build) -> None:
        state = torch.load(weights, weights_only=True)
        torch.save({name: value + 0.01 for name, value in state.items()}, weights)
        on_beam(build)

    request = dataclasses.replace(request_of(tmp_path / "out"), pretrained=str(weights), run=run)
    with pytest.raises(CurateError, match=r"^--model .*: its weights or config have changed since the run began, but"):
        score(request)
    assert not (tmp_path / "out/scores.json").exists()


@pytest.mark.parametrize("text", ["{", "{}", "[]", '{"rows": 1, "statuses": 3}'])
def test_a_damaged_record_is_named(request_of, scored, tmp_path, text):
    shutil.copytree(scored, tmp_path / "out")
    (tmp_path / "out/scores.json").write_text(text)
    with pytest.raises(CurateError, match=r"out/scores\.json: is not what `curate score` writes \("):
        score(request_of(tmp_path / "out"))


def test_a_killed_command_goes_on_and_two_workers_give_the_same_bytes(pool, model, server, scored, tmp_path):
    arguments = ["score", "--pool", pool, "--model", model[0], "--pretrained", model[1], "--as", "tiny",
                 "--batch", BATCH, "--workers", 2, "--allow-host", server.host, "--out", tmp_path / "out"]  # fmt: skip
    command = [sys.executable, "-m", "jobs.cli", *map(str, arguments)]
    opened = threading.Event()
    server.before = lambda n: n >= ROWS - 3 and opened.wait(60)  # the last file can't be finished before the kill
    killed = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    parts, deadline = tmp_path / "out/work/parts", time.monotonic() + 240
    while not (parts.is_dir() and any(not path.name.startswith(".") for path in parts.iterdir())):
        assert killed.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    workers = descendants(killed.pid)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    server.before = lambda n: None
    opened.set()
    deadline = time.monotonic() + 20
    while any(os.path.exists(f"/proc/{pid}") for pid in workers):  # they follow
        assert time.monotonic() < deadline
        time.sleep(0.01)
    done_files = {int(path.stem) for path in parts.glob("[0-9]*.npz")}
    asked = len(server.requests)
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    again = {int(path.strip("/").removesuffix(".jpg")) // (ROWS // FILES) for path in server.requests[asked:]}
    assert done_files
    assert len(again) == FILES - len(done_files)
    assert written(tmp_path / "out") == written(scored)
    assert f"{ROWS - 5}  ok" in done.stdout
