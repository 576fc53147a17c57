"""Comparisons of real runs: what plain sets of their rows give, in words, in figures and as a picture."""

import itertools
import json
import pathlib
import shutil
import xml.etree.ElementTree as ET

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import make_rows, write_rows
from matplotlib.figure import Figure

from filters import quantile
from filters.recipes import open_recipe
from jobs.engines import run_with
from metadata.errors import CurateError
from pipeline import compare_picture
from pipeline.compare import compare
from pipeline.curate import Request, curate
from pipeline.kept import Spread

RECIPES = {
    "long": '- where: "original_width >= 200"\n- caption_length: {min_words: 3, min_chars: 6}',
    "fit": "- clip_score: {model: l14, fraction: 0.3}",
    "fit_long": '- clip_score: {model: l14, threshold: 0.2}\n- where: "length(text) > 10 and text like \'%e%\'"',
}


def make_run(folder: pathlib.Path, pool: pathlib.Path, name: str, steps: str) -> pathlib.Path:
    """A run, by the job itself."""
    (folder / f"{name}.yaml").write_text(f"name: {name}\nsteps:\n{steps}\n")
    recipe = open_recipe(str(folder / f"{name}.yaml"))
    curate(Request(str(pool), None, recipe, str(folder / name), run_with("local", 1, []), select_only=True))
    return folder / name


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> pathlib.Path:
    """A run of each of RECIPES over one pool, and one over another pool."""
    folder = tmp_path_factory.mktemp("runs")
    pool = write_rows(folder / "pool", make_rows(1000))
    for name, steps in RECIPES.items():
        make_run(folder, pool, name, steps)
    part = write_rows(folder / "part", make_rows(1000)[:300], files=2)
    make_run(folder, part, "elsewhere", RECIPES["fit"])
    return folder


@pytest.fixture
def own(folder, tmp_path):
    """own(name) -> a copy of the run, to be damaged."""
    return lambda name: shutil.copytree(folder / name, tmp_path / name)


def uids(run: pathlib.Path) -> set[str]:
    return set(pq.read_table(run / "kept")["uid"].to_pylist())


def refused(*runs: pathlib.Path, out: pathlib.Path) -> str:
    with pytest.raises(CurateError) as caught:
        compare([str(run) for run in runs], str(out))
    assert not list(out.glob("*")) if out.exists() else True
    return str(caught.value)


def drawn_spread(name: str, *runs: dict[float, int]):
    """A panel's curves, and the panel, for runs of so many rows of each value."""
    spreads = []
    for values in runs:
        keys = quantile.keys(pa.array(np.repeat([*values], [*values.values()]), pa.float32()))
        ordered = [quantile.score(key) for key in np.sort(keys)]
        counts = quantile.count(keys >> 16)
        spreads.append({name: Spread(len(keys), 0, {"least": ordered[0], "most": ordered[-1]}, counts)})
    figure = Figure(figsize=(13, 5))
    axes = compare_picture._axes(figure, 0.7, 1, 3.4, 1.75)
    compare_picture._draw_spread(axes, name, [{"label": label} for label, _ in zip("AB", runs, strict=False)], spreads)
    return axes.lines[: len(runs)], axes


def texts_of(svg: bytes) -> list[str]:
    return ["".join(element.itertext()) for element in ET.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]


class TestReport:
    def test_rows_and_overlaps_are_those_of_sets(self, folder, tmp_path):
        report = compare([str(folder / name) for name in RECIPES], str(tmp_path))
        assert json.loads((tmp_path / "compare.json").read_text()) == report
        kept = [uids(folder / name) for name in RECIPES]
        for about, own, name in zip(report["runs"], kept, RECIPES, strict=True):
            manifest = json.loads((folder / name / "manifest.json").read_text())
            others = set().union(*(other for other in kept if other is not own))
            assert about["subset"] == {"rows": len(own), "distinct": len(own), "in_no_other": len(own - others)}
            assert (about["recipe"], about["run"]) == (name, str(folder / name))
            assert (about["rows"]["in"], about["rows"]["kept"]) == (1000, len(own))
            steps = [{key: step[key] for key in ("step", "in", "dropped")} for step in about["rows"]["dropped"]]
            assert steps == manifest["rows"]["dropped"]
            assert [{s["step"]: s["fitted"]} for s in about["rows"]["dropped"]] == manifest["fitted"]
        labels = [about["label"] for about in report["runs"]]
        assert [pair["runs"] for pair in report["overlaps"]] == [["A", "B"], ["A", "C"], ["B", "C"]]
        for pair in report["overlaps"]:
            one, other = (kept[labels.index(label)] for label in pair["runs"])
            assert 0 < pair["shared"] == len(one & other)
            assert pair["jaccard"] == len(one & other) / len(one | other)
            assert (pair["of_first"], pair["of_second"]) == (len(one & other) / len(one), len(one & other) / len(other))
        assert report["in_all"] == len(set.intersection(*kept))

    def test_what_is_measured_and_what_is_unknown(self, folder, tmp_path):
        report = compare([str(folder / name) for name in RECIPES], str(tmp_path))
        columns = ["clip_l14_similarity_score", "original_width"]
        assert report["measured"] == ["caption characters", "caption words", *columns]
        for about, name in zip(report["runs"], RECIPES, strict=True):
            table = pq.read_table(folder / name / "kept")
            assert about["captions_looked_at"] == (table.num_rows if "text" in table.column_names else None)
            for column in columns:
                assert (column in about["measures"]) == (column in table.column_names)
                if column in table.column_names:
                    expected = np.quantile(table[column].to_numpy(), [0, 0.25, 0.5, 0.75, 1], method="lower").tolist()
                    assert list(about["measures"][column]["quartiles"].values()) == expected
        assert report["notes"] == [
            "kept/ has the columns that a recipe's steps read, so nothing is known for A of clip_l14_similarity_score, "
            "B of original_width and text, C of original_width. A step such as `- where: \"text is null or true\"` "
            "reads one and keeps every row."
        ]

    def test_words_are_of_pairs_with_captions(self, folder, tmp_path):
        (pair,) = compare([str(folder / name) for name in RECIPES], str(tmp_path))["words"]
        assert pair["runs"] == ["A", "C"]
        shares = []
        for name in ("long", "fit_long"):
            captions = pq.read_table(folder / name / "kept")["text"].to_pylist()
            shares.append(lambda word, of=captions: sum(word in text.lower().split() for text in of) / len(of))
        for side, (own, other) in (("more_in_first", shares), ("more_in_second", shares[::-1])):
            assert pair[side]
            for word in pair[side]:
                assert (word["share"], word["other_share"]) == (own(word["word"]), other(word["word"]))
                assert word["share"] > word["other_share"]

    def test_the_advice_of_the_note_is_true(self, folder, tmp_path):
        steps = '- where: "text is null or true"\n' + RECIPES["fit"]
        run = make_run(tmp_path, folder / "pool", "with_text", steps)
        assert (run / "subset.npy").read_bytes() == (folder / "fit/subset.npy").read_bytes()
        report = compare([str(run), str(folder / "fit")], str(tmp_path / "out"))
        assert report["overlaps"][0]["jaccard"] == 1
        assert report["runs"][0]["measures"]["caption characters"]["without"] > 0

    def test_a_subset_file_has_rows_and_overlaps_alone(self, folder, tmp_path):
        shutil.copy(folder / "long/subset.npy", tmp_path / "datacomp.npy")
        report = compare([str(tmp_path / "datacomp.npy"), str(folder / "long")], str(tmp_path / "out"))
        about = report["runs"][0]
        assert about["subset"] == report["runs"][1]["subset"]
        assert [about[key] for key in ("recipe", "pool", "rows", "measures", "captions_looked_at")] == [None] * 5
        assert report["overlaps"][0]["jaccard"] == 1
        assert report["notes"] == [
            "A is a subset file, so only its rows and overlaps are known. Its run's folder would tell the rest."
        ]

    def test_repeated_uids_count_once_in_overlaps(self, folder, tmp_path):
        once = np.load(folder / "long/subset.npy")
        np.save(tmp_path / "thrice.npy", np.repeat(once[::2], 3))
        report = compare([str(tmp_path / "thrice.npy"), str(folder / "long")], str(tmp_path / "out"))
        half = len(once[::2])
        assert report["runs"][0]["subset"] == {"rows": 3 * half, "distinct": half, "in_no_other": 0}
        assert report["overlaps"][0] == {"runs": ["A", "B"], "shared": half, "jaccard": half / len(once),
                                         "of_first": 1.0, "of_second": half / len(once)}  # fmt: skip

    def test_different_pools_are_told_and_overlaps_still_counted(self, folder, tmp_path):
        report = compare([str(folder / "fit"), str(folder / "elsewhere")], str(tmp_path))
        assert report["overlaps"][0]["shared"] == len(uids(folder / "fit") & uids(folder / "elsewhere")) > 0
        assert report["notes"][0] == (
            f"The runs are not of one pool, so they differ not by their recipes alone: A of {folder}/pool (3 files, "
            f"1,000 rows), B of {folder}/part (2 files, 300 rows)."
        )

    def test_a_copy_of_the_pool_is_the_same_pool(self, folder, tmp_path):
        shutil.copytree(folder / "pool", tmp_path / "copy")
        run = make_run(tmp_path, tmp_path / "copy", "again", RECIPES["fit"])
        report = compare([str(run), str(folder / "fit")], str(tmp_path / "out"))
        assert not any("not of one pool" in note for note in report["notes"])

    def test_addresses(self, folder, tmp_path):
        fs = fsspec.filesystem("memory")
        for name in RECIPES:
            fs.put(str(folder / name), f"/compare-test/{name}", recursive=True)
        there = compare([f"memory://compare-test/{name}" for name in RECIPES], "memory://compare-test/out")
        here = compare([str(folder / name) for name in RECIPES], str(tmp_path))
        assert [run | {"run": ""} for run in there["runs"]] == [run | {"run": ""} for run in here["runs"]]
        assert there["overlaps"] == here["overlaps"]
        assert fs.cat_file("/compare-test/out/compare.svg") == (tmp_path / "compare.svg").read_bytes()
        fs.rm("/compare-test", recursive=True)


class TestPicture:
    def test_it_shows_everything_and_is_the_same_each_time(self, folder, tmp_path):
        shutil.copy(folder / "fit/subset.npy", tmp_path / "some.npy")
        runs = [*(str(folder / name) for name in RECIPES), str(tmp_path / "some.npy")]
        report = compare(runs, str(tmp_path / "one"))
        compare(runs, str(tmp_path / "two"))
        svg = (tmp_path / "one/compare.svg").read_bytes()
        assert svg == (tmp_path / "two/compare.svg").read_bytes()
        assert (tmp_path / "one/compare.json").read_bytes() == (tmp_path / "two/compare.json").read_bytes()
        shown = texts_of(svg)
        for name in (*report["measured"], "kept", "dropped by clip_score", "what they were chosen from is unknown"):
            assert name in shown
        for word in (*report["words"][0]["more_in_first"], *report["words"][0]["more_in_second"]):
            assert word["word"] in shown
        assert f"{report['overlaps'][0]['jaccard']:.2f}" in shown
        assert "A: long" in shown

    def test_copies_are_samples_and_steps_of_one_name_are_told_apart(self, folder, tmp_path):
        cap = "soft_cap: {weights: {clip_l14_similarity_score: 1.0}, samples: 1500}"
        capped = make_run(tmp_path, folder / "pool", "capped", f"{RECIPES['fit']}\n- {cap}")
        steps = '- where: "original_width >= 200"\n- where: "original_height >= 200"\n- where: "text is null or true"'
        thrice = make_run(tmp_path, folder / "pool", "thrice", steps)
        report = compare([str(capped), str(thrice)], str(tmp_path / "out"))
        shown = texts_of((tmp_path / "out/compare.svg").read_bytes())
        assert f"{len(uids(capped)):,} rows, 1,500 samples" in shown
        assert f"{len(uids(thrice)):,} rows" in shown
        assert [text for text in shown if "where" in text] == [f"dropped by where{n}" for n in ("", " 2", " 3")]
        assert "copies" in report["measured"]
        assert not any("copies" in note for note in report["notes"])

    def test_curves_are_steps_at_values_that_there_are(self):
        curves, axes = drawn_spread("x", {2.0: 84, 10.0: 16}, {7.3: 5})
        assert [curve.get_drawstyle() for curve in curves] == ["steps-post"] * 2
        words, constant = (curve.get_xydata().tolist() for curve in curves)
        assert words == [[2, 0], [pytest.approx(2, rel=0.01), 0.84], [10, 1]]
        assert constant == [[pytest.approx(7.3), 0], [pytest.approx(7.3), 1]]
        assert axes.get_legend() is None

    @pytest.mark.parametrize("values", [
        {4.61e18: 1, 4.67e18: 1}, {-4.6e18: 1, 4.6e18: 1}, {1.0: 1, 4.6e18: 1}, {1.23456e9: 1, 1.23457e9: 1},
        {0.0: 1, 900.0: 1},
    ], ids=str)  # fmt: skip
    def test_what_is_written_below_a_panel_has_room(self, values):
        _, axes = drawn_spread("x", values)
        axes.figure.draw_without_rendering()
        low, high = axes.get_window_extent().intervalx
        labels = sorted((label.get_window_extent() for label in axes.get_xticklabels() if label.get_text()),
                        key=lambda box: box.x0)  # fmt: skip
        boxes = [box for box in labels if low <= (box.x0 + box.x1) / 2 <= high]
        assert len(boxes) > 1
        assert all(one.x1 < other.x0 for one, other in itertools.pairwise(boxes))

    def test_one_legend_tells_of_all_runs(self, folder, tmp_path):
        compare([str(folder / name) for name in RECIPES], str(tmp_path))
        shown = texts_of((tmp_path / "compare.svg").read_bytes())
        assert [shown.count(label) for label in "ABC"] == [3] * 3  # beside and below the overlaps, and in the legend

    def test_hostile_words_and_columns_are_shown_as_they_are(self, tmp_path):
        hostile = ["a$\\frac$b", "a<script>b", "\x1b[2Jx", "_x_", "\u202eabc", "w" * 500]
        rows = [row | {"text": hostile[n // 2 % 6] if n % 2 else "plain words"} for n, row in enumerate(make_rows(200))]
        table = pa.Table.from_pylist(rows).append_column("$x^{$\x1b", pa.array(range(200)))
        (tmp_path / "pool").mkdir()
        pq.write_table(table, tmp_path / "pool/0.parquet")
        steps = '- where: "text is null or \\"$x^{$\x1b\\" >= 0"'.replace("\x1b", "\\e")
        recipes = {"all": steps, "plain": steps + "\n- where: \"text = 'plain words'\""}
        runs = [make_run(tmp_path, tmp_path / "pool", *recipe) for recipe in recipes.items()]
        report = compare([str(run) for run in runs], str(tmp_path / "out"))
        svg = (tmp_path / "out/compare.svg").read_bytes()
        shown = texts_of(svg)
        assert b"\x1b" not in svg
        assert "$x^{$\\x1b" in shown
        assert {"a$\\frac$b", "a<script>b", "\\x1b[2jx", "x", "\\u202eabc", "w" * 23 + "…"} <= set(shown)
        assert len(report["words"][0]["more_in_first"]) == 6

    def test_runs_that_know_nothing_more(self, folder, tmp_path):
        for name in ("long", "fit"):
            shutil.copy(folder / name / "subset.npy", tmp_path / f"{name}.npy")
        compare([str(tmp_path / "long.npy"), str(tmp_path / "fit.npy")], str(tmp_path / "out"))
        assert "uids in common: Jaccard index" in texts_of((tmp_path / "out/compare.svg").read_bytes())


class TestRefusals:
    def test_one_run_alone(self, folder, tmp_path):
        words = refused(folder / "long", out=tmp_path / "out")
        assert words.startswith("compare: 1 run is given, but a comparison needs two or more.")

    def test_more_than_can_be_told_apart(self, folder, tmp_path):
        words = refused(*[folder / "long"] * 11, out=tmp_path / "out")
        assert words.startswith("compare: 11 runs are given, but at most 10 can be told apart.")

    def test_a_run_twice(self, folder, tmp_path):
        (tmp_path / "link").symlink_to(folder / "long")
        words = refused(folder / "long", folder / "fit", tmp_path / "link", out=tmp_path / "out")
        assert words == f"{folder}/long: is given 2 times, but a run is compared with others. Give each run once."

    def test_what_is_no_finished_run(self, folder, tmp_path, own):
        (own("long") / "manifest.json").unlink()
        for other, words in [
            (tmp_path / "none", "there is no such place, but a run's folder or a subset file (.npy) is needed."),
            (folder / "part", "holds no run, but a run's folder or a subset file (.npy) is needed."),
            (tmp_path / "long", "its run is unfinished, but a comparison needs finished ones."),
        ]:
            assert refused(folder / "fit", other, out=tmp_path / "out").startswith(f"{other}: {words}")

    @pytest.mark.parametrize("change", [
        {"rows": {"in": 5}}, {"rows": None}, {"sha256": {}}, {"files": [{}]}, {"fitted": []}, {"recipe": {"name": 3}},
        {"columns": None}, {"pool": None},
    ])  # fmt: skip
    def test_a_manifest_of_something_else(self, folder, tmp_path, own, change):
        path = own("long") / "manifest.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | change))
        assert "long/manifest.json: is not what a run of `curate --pool …` writes (" in refused(
            folder / "fit", tmp_path / "long", out=tmp_path / "out"
        )

    @pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff", b"[" * 100_000, b'{"command": "reshard"}'])
    def test_what_is_no_manifest(self, folder, tmp_path, own, body):
        (own("long") / "manifest.json").write_bytes(body)
        assert "long/manifest.json: is not what a run of" in refused(
            folder / "fit", tmp_path / "long", out=tmp_path / "out"
        )

    @pytest.mark.parametrize("name", ["subset.npy", "kept/000001.parquet"])
    def test_files_that_are_not_what_the_run_wrote(self, folder, tmp_path, own, name):
        path = own("long") / name
        whole = path.read_bytes()
        path.write_bytes(whole[:-20] + bytes(20) if name.startswith("kept") else whole[:-1] + bytes([whole[-1] ^ 255]))
        words = refused(folder / "fit", tmp_path / "long", out=tmp_path / "out")
        assert words.startswith(f"{path}: ")
        path.unlink()
        words = refused(folder / "fit", tmp_path / "long", out=tmp_path / "out")
        assert words.startswith(f"{tmp_path}/long: {name} is missing, but its manifest names it.")

    def test_a_manifest_can_t_name_files_elsewhere(self, folder, tmp_path, own):
        path = own("long") / "manifest.json"
        record = json.loads(path.read_text())
        subset = record["sha256"]["subset.npy"]
        record["sha256"] = {"subset.npy": subset, "kept/../../fit/kept/000000.parquet": "0" * 64}
        path.write_text(json.dumps(record))
        words = refused(folder / "fit", tmp_path / "long", out=tmp_path / "out")
        assert words.startswith(f"{tmp_path}/long: kept/ is missing, but")

    def test_a_file_that_is_no_subset(self, folder, tmp_path):
        np.save(tmp_path / "x.npy", np.arange(5))
        words = refused(folder / "fit", tmp_path / "x.npy", out=tmp_path / "out")
        assert words.startswith(f"{tmp_path}/x.npy: dtype int64 and shape (5,), but DataComp's format is needed")
