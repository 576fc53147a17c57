"""Rows that a run takes more than once: so often in the subset, once in kept/, fetched once, written under own keys."""

import collections
import json
import pathlib
import random

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from choosing import choose_in_a_loop, choose_on_beam, files, plan
from image_server import ImageServer, serving

from filters.captions import CaptionLength
from filters.recipes import Recipe
from filters.soft_cap import SoftCap
from jobs.engines import run_with
from metadata import uids
from metadata.errors import CurateError
from pipeline import manifest, planning, select
from pipeline.compare import compare
from pipeline.curate import Request, curate
from pipeline.ledger import read_ledger
from pipeline.options import FetchPolicy
from pipeline.reshard import reshard
from pipeline.retry import retry

WEIGHTS = {"clip_l14_similarity_score": 1.5, "clip_b32_similarity_score": -0.2}
RECIPE = Recipe("drawn", (CaptionLength(1, 0), SoftCap(WEIGHTS, samples=1500)), samples_per_shard=20)


@pytest.fixture
def rows(toy_rows) -> list[dict]:
    """The toy rows, some of which have one score too few."""
    return [row | {"clip_b32_similarity_score": None if n % 9 == 0 else 0.1 + n % 7 / 40} for n, row in
            enumerate(toy_rows)]  # fmt: skip


def taken(out: pathlib.Path) -> collections.Counter[str]:
    """How often each uid is in the subset, which is sorted."""
    words = np.load(out / "subset.npy", allow_pickle=False)
    assert words.dtype == np.dtype("u8,u8")
    assert (np.sort(words) == words).all()
    return collections.Counter(uids.text_of(words.view(uids.UID_DTYPE)))


def kept(out: pathlib.Path) -> dict[str, int]:
    """`copies` by uid, of all files in kept/."""
    tables = [pq.read_table(path) for path in sorted((out / "kept").iterdir())]
    assert all(table.schema.field("copies").type == pa.int32() for table in tables)
    found = [pair for t in tables for pair in zip(t["uid"].to_pylist(), t["copies"].to_pylist(), strict=True)]
    assert len(found) == len(dict(found))
    return dict(found)


def choose(recipe: Recipe, pool: pathlib.Path, out: pathlib.Path, workers: int = 0) -> dict:
    """Chooses and writes the subset; the counts."""
    pieces, choice = plan(recipe, pool, out)
    if workers:
        choose_on_beam(recipe, pieces, choice, workers)
    else:
        choose_in_a_loop(recipe, pieces, choice)
    counts, samples, *_ = manifest.count_rows(pieces, [step.name for step in recipe.steps], str(out))
    assert sum(samples) == counts["samples"]
    select.write_subset(choice, counts["samples"])
    return counts


def test_the_subset_has_each_row_as_often_as_kept_says(rows, write_pool, tmp_path):
    counts = choose(RECIPE, write_pool(tmp_path / "pool", rows), tmp_path / "run")
    found = taken(tmp_path / "run")
    assert found == kept(tmp_path / "run")
    assert found.total() == counts["samples"] == 1500
    assert max(found.values()) > 5
    assert len(found) == counts["kept"] == 1000 - sum(step["dropped"] for step in counts["dropped"])
    # Rows that lack a score, or that an earlier step has dropped, are never drawn.
    out = {row["uid"] for row in rows if row["clip_b32_similarity_score"] is None or not row["text"]}
    assert not out & set(found)
    fitted = select.fitted(RECIPE.steps, str(tmp_path / "run"))[-1]["soft_cap"]
    reach = [row for row in rows if row["text"]]
    assert fitted["rows"] == len(reach)
    assert fitted["rows_without_score"] == sum(row["clip_b32_similarity_score"] is None for row in reach) > 0
    manifest.check_samples(counts, [{"soft_cap": fitted}])
    with pytest.raises(CurateError, match="step soft_cap: took 1,500 samples, but 1,499 were drawn"):
        manifest.check_samples(counts, [{"soft_cap": fitted | {"samples": 1499}}])


def test_the_same_bytes_on_one_worker_and_on_two(rows, write_pool, tmp_path):
    pool = write_pool(tmp_path / "pool", rows)
    for name, workers in (("loop", 0), ("one", 1), ("two", 2)):
        choose(RECIPE, pool, tmp_path / name, workers)
    assert files(tmp_path / "loop") == files(tmp_path / "one") == files(tmp_path / "two")


def test_the_same_choice_in_any_order_and_any_files(rows, write_pool, tmp_path):
    choose(RECIPE, write_pool(tmp_path / "pool", rows), tmp_path / "run")
    random.Random(0).shuffle(rows)
    choose(RECIPE, write_pool(tmp_path / "other", rows, files=5, row_group_size=70), tmp_path / "again")
    assert (tmp_path / "run/subset.npy").read_bytes() == (tmp_path / "again/subset.npy").read_bytes()
    assert kept(tmp_path / "run") == kept(tmp_path / "again")


def test_a_uid_that_the_pool_has_twice_is_no_copy(rows, write_pool, tmp_path):
    choose(RECIPE, write_pool(tmp_path / "pool", rows), tmp_path / "run")
    often = taken(tmp_path / "run").most_common(1)[0][0]
    (other,) = [n for n, row in enumerate(rows) if row["uid"] == often]
    rows[(other + 400) % 1000]["uid"] = often
    with pytest.raises(CurateError, match=rf"uid {often} occurs 2 times, but a uid names one row of a pool"):
        choose(RECIPE, write_pool(tmp_path / "twice", rows), tmp_path / "other")


def test_a_piece_with_no_row_that_is_drawn(rows, write_pool, tmp_path):
    for row in rows[:400]:
        row["text"] = None
    counts = choose(RECIPE, write_pool(tmp_path / "pool", rows), tmp_path / "run")
    assert taken(tmp_path / "run") == kept(tmp_path / "run")
    assert counts["samples"] == 1500


# Shards.


@pytest.fixture
def server():
    with serving() as running:
        yield running


def pool_of(server: ImageServer, write_pool, where: pathlib.Path, rows: int = 40) -> pathlib.Path:
    draw = random.Random(1)
    return write_pool(where, [row | {"clip_l14_similarity_score": draw.gauss(0, 1)} for row in server.rows(rows)])


DRAWN = Recipe("drawn", (SoftCap({"clip_l14_similarity_score": 1.5}, samples=90),), samples_per_shard=20)


def asked(server: ImageServer, pool: pathlib.Path, out: pathlib.Path, workers: int = 1) -> Request:
    fetch = FetchPolicy(allow_hosts=frozenset({server.host}), attempts=1)
    return Request(str(pool), None, DRAWN, str(out), run_with("local", workers, []), fetch=fetch)


def read(shards: pathlib.Path) -> list[list[dict]]:
    """What webdataset reads, by shard."""
    import webdataset

    return [
        [{"key": key, "jpg": jpg, "txt": txt, **json.loads(meta)} for key, jpg, txt, meta in
         webdataset.WebDataset(str(path), shardshuffle=False).to_tuple("__key__", "jpg", "txt", "json")]
        for path in sorted(shards.glob("*.tar"))
    ]  # fmt: skip


def test_each_copy_has_a_key_of_its_own_and_is_fetched_once_a_shard(server, write_pool, tmp_path):
    record = curate(asked(server, pool_of(server, write_pool, tmp_path / "pool"), tmp_path / "run"))
    assert record["rows"]["samples"] == record["samples"]["ok"] == 90 > record["rows"]["kept"]
    shards = read(tmp_path / "run/shards")
    assert [len(shard) for shard in shards] == [20, 20, 20, 20, 10]
    samples = [sample for shard in shards for sample in shard]
    assert len({sample["key"] for sample in samples}) == 90
    assert collections.Counter(sample["uid"] for sample in samples) == taken(tmp_path / "run")
    for number, shard in enumerate(shards):
        ledger = read_ledger(str(tmp_path / "run/shards"), number)
        assert [(s["key"], s["uid"]) for s in shard] == list(
            zip(ledger["key"].to_pylist(), ledger["uid"].to_pylist(), strict=True)
        )
        numbers = [sample.get("copy", 0) for sample in shard]
        assert numbers == sorted(numbers)  # all first copies, then all second ones
    by_uid = collections.defaultdict(list)
    for sample in samples:
        by_uid[sample["uid"]].append(sample)
    for own in by_uid.values():
        assert sorted(sample.get("copy", 0) for sample in own) == list(range(len(own)))
        assert len({(sample["jpg"], sample["txt"], sample["url"]) for sample in own}) == 1
    # Only rows whose copies two shards share are fetched by both.
    fetched = sum(len({sample["uid"] for sample in shard}) for shard in shards)
    assert len(server.requests) == fetched <= record["rows"]["kept"] + len(shards) - 1


@pytest.mark.slow
def test_two_workers_write_the_same_shards(server, write_pool, tmp_path):
    pool = pool_of(server, write_pool, tmp_path / "pool")
    for workers in (1, 2):
        curate(asked(server, pool, tmp_path / f"{workers}", workers))
    one, two = ({name: data for name, data in files(tmp_path / n).items() if name.startswith(("kept", "shards", "sub"))}
                for n in "12")  # fmt: skip
    assert one == two
    assert any(name.endswith("00000004.tar") for name in one)


def test_a_retry_writes_every_copy(server, write_pool, tmp_path):
    pool = pool_of(server, write_pool, tmp_path / "pool")
    curate(asked(server, pool, tmp_path / "lucky"))
    often = taken(tmp_path / "lucky").most_common(1)[0][0]
    table = pa.concat_tables(pq.read_table(path) for path in pool.iterdir())
    (url,) = [url for uid, url in zip(table["uid"].to_pylist(), table["url"].to_pylist(), strict=True) if uid == often]
    server.failing = {int(pathlib.PurePosixPath(url).stem): 503}
    record = curate(asked(server, pool, tmp_path / "run"))
    times = taken(tmp_path / "run")[often]
    assert record["samples"] == {"http_5xx": times, "ok": 90 - times}
    server.failing = {}
    request = asked(server, pool, tmp_path / "run")
    before, after = retry(request.out, frozenset({"http_5xx"}), request.fetch, request.run)
    assert (before["http_5xx"], after) == (times, {"ok": 90})
    tars = [[p.read_bytes() for p in sorted((tmp_path / name / "shards").glob("*.tar"))] for name in ("run", "lucky")]
    assert tars[0] == tars[1]


def test_shards_with_copies_can_be_resharded(server, write_pool, tmp_path):
    import webdataset

    curate(asked(server, pool_of(server, write_pool, tmp_path / "pool"), tmp_path / "run"))
    shards, subset = str(tmp_path / "run/shards"), str(tmp_path / "run/subset.npy")
    record = reshard(shards, subset, str(tmp_path / "again"), 20, 1)
    found = taken(tmp_path / "run")
    assert record["samples"] == {"in": 90, "removed": 0, "kept": len(found), "copies": 90 - len(found), "written": 90}
    assert record["subset"]["missing"] == 0
    again = [sample for shard in read(tmp_path / "again") for sample in shard]
    assert collections.Counter(sample["uid"] for sample in again) == found
    # One of each row alone: a subset without copies.
    np.save(tmp_path / "once.npy", np.unique(np.load(subset)))
    record = reshard(shards, str(tmp_path / "once.npy"), str(tmp_path / "once"), 20, 1)
    assert record["samples"]["written"] == len(found)
    # Any copy of a row may be missing, as its fetch failed: here the first of each that has others.
    (tmp_path / "less").mkdir()
    for path in (tmp_path / "run/shards").glob("*.tar"):
        with webdataset.TarWriter(str(tmp_path / "less" / path.name)) as tar:
            for sample in webdataset.WebDataset(str(path), shardshuffle=False):
                facts = json.loads(sample["json"])
                if "copy" in facts or found[facts["uid"]] == 1:
                    tar.write({name: sample[name] for name in ("__key__", "jpg", "txt", "json")})
    record = reshard(str(tmp_path / "less"), subset, str(tmp_path / "of less"), 20, 1)
    assert record["samples"] == {"in": 90 - sum(n > 1 for n in found.values()), "removed": 0, "kept": len(found),
                                 "copies": 90 - len(found), "written": 90}  # fmt: skip
    assert record["subset"]["missing"] == 0
    again = [sample for shard in read(tmp_path / "of less") for sample in shard]
    assert collections.Counter(sample["uid"] for sample in again) == found
    assert all(sample.get("copy", 0) == (found[sample["uid"]] > 1) for sample in again)


def test_runs_with_copies_are_compared_by_different_uids(rows, write_pool, tmp_path):
    pool = write_pool(tmp_path / "pool", rows)
    steps = {"drawn": RECIPE.steps, "all": (CaptionLength(1, 0),)}
    for name, own in steps.items():
        curate(Request(str(pool), None, Recipe(name, own), str(tmp_path / name), run_with("local", 1, []),
                       select_only=True))  # fmt: skip
    report = compare([str(tmp_path / name) for name in steps], str(tmp_path / "compared"))
    found = taken(tmp_path / "drawn")
    assert report["runs"][0]["subset"] == {"rows": 1500, "distinct": len(found), "in_no_other": 0}
    assert report["overlaps"][0]["shared"] == len(found)
    assert report["overlaps"][0]["of_first"] == 1.0
    assert report["runs"][0]["measures"]["copies"]["quartiles"]["most"] == max(found.values())


def test_plans_cut_a_rows_copies_where_a_shard_is_full(rows, write_pool, tmp_path):
    """Without images: what each shard is to hold, over many pieces and sizes of shards."""
    pool = write_pool(tmp_path / "pool", rows, row_group_size=100)
    pieces, choice = plan(RECIPE, pool, tmp_path / "run")
    choose_in_a_loop(RECIPE, pieces, choice)
    _, samples, *_ = manifest.count_rows(pieces, [step.name for step in RECIPE.steps], choice.folder)
    for piece in pieces:
        planning.plan_piece(piece, choice.folder, ("uid", "url", "text"))
    select.write_subset(choice, sum(samples))
    for size in (1, 7, 1000, 5000):
        plans = planning.plan_shards([(p.name, n) for p, n in zip(pieces, samples, strict=True)], size)
        tables = [planning.read_plan(one, choice.folder) for one in plans]
        assert [table.num_rows for table in tables[:-1]] == [size] * (len(tables) - 1)
        planned = pa.concat_tables(tables)
        assert collections.Counter(planned["uid"].to_pylist()) == taken(tmp_path / "run")
        pairs = set(zip(planned["uid"].to_pylist(), planned["copy"].to_pylist(), strict=True))
        assert len(pairs) == 1500
