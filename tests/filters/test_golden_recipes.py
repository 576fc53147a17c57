"""Each recipe keeps the rows that DataComp's rules keep, restated here row by row."""

import json
import pathlib
import random

import numpy as np
import pyarrow as pa
import pytest
import restated_metaclip as plain
import restated_nltk
from small_sources import SYNSETS

from filters.base import Fit
from filters.language import _bundled
from filters.recipes import RECIPES, Recipe, file_names, open_recipe

ROWS = 4000
CAPTIONS = [
    "a dog runs on the beach", "two words", "a b c", "a b cd", "", " ", "\n", "\r\n\t", "ein Hund läuft am Strand",
    "a dog\nruns on\nthe beach", "the\x1cquick\x1dbrown", "the\x85quick\x85brown fox", "the\xa0quick\xa0brown fox",
    "the\u200bquick\u200bbrown fox", "the\u3000quick\u3000brown fox", "e\u0301 e\u0301 e\u0301",
    "e\u0301te\u0301 a\u0301", "犬が浜辺を走る", "一 二 三", "一 二 三 四", "🎉 🎉 🎉",
    "👨‍👩‍👧 family photo of three", "une photo de mon chien noir", "IMG_2041.jpg", "the cat sat on the mat " * 300,
    "The  spaces   are    many", " lead and trail ", "a\0b c\0d e",
]  # fmt: skip
SIDES = [0, 1, 66, 67, 100, 199, 200, 201, 300, 599, 600, 601, 603, 1000, 5000]


def pool(nulls: bool) -> pa.Table:
    """Rows that meet every edge; scores on a coarse grid, so that many are tied at the threshold."""
    draw = random.Random(7)
    extra = ([None], [None], [None, float("nan")]) if nulls else ([], [], [])
    texts = [draw.choice(CAPTIONS + extra[0]) for _ in range(ROWS)]
    grid = [float(np.float32(i / 100)) for i in range(20, 36)] + [0.28, -0.0, 0.0, *extra[2]]
    scores = {
        f"clip_{model}_similarity_score": pa.array([draw.choice(grid) for _ in range(ROWS)], pa.float32())
        for model in ("b32", "l14")
    }
    sides = {
        f"original_{side}": pa.array([draw.choice(SIDES + extra[1]) for _ in range(ROWS)], pa.int64())
        for side in ("width", "height")
    }
    uids = [f"{draw.getrandbits(128):032x}" for _ in range(ROWS)]
    return pa.table({"row": range(ROWS), "uid": uids, "text": pa.array(texts, pa.string()), **sides, **scores})


def chosen(recipe: Recipe, table: pa.Table) -> list[int]:
    """The rows a recipe keeps, read in batches of 700."""
    batches = table.to_batches(max_chunksize=700)
    for step in recipe.steps:
        for scorer in step.scorers:
            score = scorer.load(scorer.build())
            batches = [batch.append_column(scorer.column, score(batch)) for batch in batches]
        while isinstance(step, Fit):
            state = step.empty()
            for batch in batches:
                state = step.add(state, batch)
            step = step.finish(state)
        batches = [batch.filter(step.keep(batch)) for batch in batches]
    return [row for batch in batches for row in batch["row"].to_pylist()]


def basic_filter(row: dict) -> bool:
    text, width, height = row["text"], row["original_width"], row["original_height"]
    if text is None or width is None or height is None:
        return False
    language = basic_filter.model.predict(text.replace("\n", " "))[0][0]
    return (
        language == "__label__en" and len(text.split()) > 2 and len(text) > 5
        and min(width, height) >= 200 and max(width, height) / min(width, height) <= 3.0
    )  # fmt: skip


def top_percent(model: str, table: pa.Table, percent: int = 30):
    column = f"clip_{model}_similarity_score"
    scores = np.array([np.nan if s is None else s for s in table[column].to_pylist()], np.float32)
    threshold = -np.sort(-scores)[int(len(scores) * percent / 100)]
    return lambda row: row[column] is not None and np.float32(row[column]) >= threshold


def laion2b(row: dict) -> bool:
    if row["text"] is None or row["clip_b32_similarity_score"] is None:
        return False
    language = laion2b.model.FindLanguage(text=row["text"].replace("\n", " ")).language
    return language == "en" and np.float32(row["clip_b32_similarity_score"]) >= np.float32(0.28)


#: What the balancing recipes match here: entries of CAPTIONS, in the languages that they are in.
WORLD = {"en": ["dog", "the", "on the", "fox", "c", "a", "The"], "de": ["Hund", "am Strand"], "ja": ["犬", "一 二"]}
LISTS = {"default": WORLD["en"], "worldwide": WORLD}


def balanced(rows: list[dict], t: float | None, tail: float | None) -> list[dict]:
    """MetaCLIP with one list."""
    matches = [plain.matched(row["text"], WORLD["en"]) for row in rows]
    counts = plain.count(matches, len(WORLD["en"]))
    t = plain.t_of(counts, tail) if t is None else t
    return [rows[n] for n in plain.kept([row["uid"] for row in rows], matches, counts, lambda _: t)]


def worldwide(rows: list[dict], t: float) -> list[dict]:
    """MetaCLIP 2."""
    entries, owners = plain.by_language(WORLD)
    predict = basic_filter.model.predict
    languages = [
        None if row["text"] is None else predict(row["text"].replace("\n", " "))[0][0].removeprefix("__label__")
        for row in rows
    ]
    matches = [
        [n for n in plain.matched(row["text"], entries, language) if owners[n] == language]
        for row, language in zip(rows, languages, strict=True)
    ]
    counts = plain.count(matches, len(entries))
    own = {name: [c for c, owner in zip(counts, owners, strict=True) if owner == name] for name in WORLD}
    share = plain.tail_share(own["en"], t)
    ts = {name: plain.t_of(own[name], share) for name in WORLD} | {"en": t}
    return [rows[n] for n in plain.kept([row["uid"] for row in rows], matches, counts, lambda n: ts[owners[n]])]


def english(rows: list[dict]) -> list[dict]:
    predict = basic_filter.model.predict
    return [r for r in rows if r["text"] is not None and predict(r["text"].replace("\n", " "))[0][0] == "__label__en"]


def naming(rows: list[dict], folder: pathlib.Path) -> list[dict]:
    wordnet, wanted = restated_nltk.read(folder), {int(line[1:]) for line in SYNSETS}
    return [row for row in rows if restated_nltk.names_one(row["text"], wordnet, wanted) is not None]


def best(rows: list[dict], table: pa.Table) -> list[dict]:
    return list(filter(top_percent("l14", table), rows))


#: Those that need neither features, nor files that the user gives, nor groups, which are brought together elsewhere.
BY_ROWS = [name for name in RECIPES if not file_names(RECIPES[name]) and name not in ("align", "negcliploss")]


@pytest.mark.parametrize("nulls", [False, True], ids=["as_published", "with_nulls"])
@pytest.mark.parametrize("name", [n if n != "laion2b" else pytest.param(n, marks=pytest.mark.slow) for n in BY_ROWS])
def test_keeps_the_rows_of_the_rules(
    name: str, nulls: bool, tmp_path: pathlib.Path, small_wordnet: pathlib.Path
) -> None:
    import fasttext

    table = pool(nulls)
    if name == "dfn":  # the score of a model that the pool was scored by
        table = table.append_column("clip_dfn_similarity_score", table["clip_b32_similarity_score"])
    basic_filter.model = fasttext.load_model(_bundled())
    if name == "laion2b":
        import gcld3

        laion2b.model = gcld3.NNetLanguageIdentifier(min_num_bytes=0, max_num_bytes=1000)
    rules = {
        "no_filter": lambda rows: rows,
        "basic_filter": lambda rows: list(filter(basic_filter, rows)),
        "clip_score_l14_30_percent": lambda rows: best(rows, table),
        "clip_score_b32_30_percent": lambda rows: list(filter(top_percent("b32", table), rows)),
        "laion2b": lambda rows: list(filter(laion2b, rows)),
        "text_based": lambda rows: naming(english(rows), small_wordnet),
        "dfn": lambda rows: list(filter(top_percent("dfn", table, 15), rows)),
        "metaclip": lambda rows: balanced(english(rows), 20_000, None),
        "metaclip_tail": lambda rows: balanced(english(rows), None, 0.06),
        "metaclip_worldwide": lambda rows: worldwide(rows, 170_000),
        "clip_score_balanced": lambda rows: balanced(best(rows, table), None, 0.06),
    }
    for kind, content in LISTS.items():
        (tmp_path / f"{kind}.json").write_text(json.dumps(content))
    recipe = open_recipe(name, {kind: str(tmp_path / f"{kind}.json") for kind in LISTS})
    expected = [row["row"] for row in rules[name](table.to_pylist())]
    assert chosen(recipe, table) == expected
    assert name == "no_filter" or 0 < len(expected) < ROWS


def tokens_of(text: str) -> int:
    """How many `fasttext.tokenize` gives: runs between its seven spaces, and each newline."""
    for space in " \r\t\v\f\0":
        text = text.replace(space, " ")
    return len([token for token in text.replace("\n", " </s> ").split(" ") if token])


@pytest.mark.parametrize("name", ["image_based", "datacomp_1b"])
def test_image_based(name: str, tmp_path: pathlib.Path) -> None:
    import fasttext

    rng = np.random.default_rng(0)

    def units(rows: int) -> np.ndarray:
        values = rng.standard_normal((rows, 768))
        return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float16)

    features, centroids, targets = units(ROWS), units(60), units(60)
    features[::50] = 0
    np.save(tmp_path / "centroids.npy", centroids)
    np.save(tmp_path / "targets.npy", targets)
    table = pool(nulls=True)
    wide = pa.FixedSizeListArray.from_arrays(pa.array(features.reshape(-1)), 768)
    recipe = open_recipe(name, {}, {kind: f"{tmp_path}/{kind}.npy" for kind in ("centroids", "targets")})
    found = chosen(recipe, table.append_column("l14_img", wide))

    model, best = fasttext.load_model(_bundled()), top_percent("l14", table)
    nearest = (features.astype(float) @ centroids.astype(float).T).argmax(axis=1)
    wanted = set((targets.astype(float) @ centroids.astype(float).T).argmax(axis=1))
    expected = [
        row["row"]
        for row in table.to_pylist()
        if (name == "image_based" or best(row)) and (text := row["text"]) is not None
        and tokens_of(text) > 1 and len(text) > 5
        and model.predict(text.replace("\n", " "))[0][0] == "__label__en"
        and features[row["row"]].any() and nearest[row["row"]] in wanted
    ]  # fmt: skip
    assert found == expected
    assert 100 < len(found) < ROWS / 2
