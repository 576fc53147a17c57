"""Recipes in YAML: every form that is documented, and a clear sentence for every mistake."""

import json
import pathlib
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from filters import recipe_file
from filters.captions import CaptionLength, CaptionTokens
from filters.clip_score import ClipScore, ClipScoreFraction
from filters.duplicates import Distinct, GroupSize
from filters.image_based import ImageBased
from filters.language import Cld3, Language
from filters.normsim import NormSim, NormSimFraction
from filters.recipes import RECIPES, Recipe, describe, open_recipe
from filters.semantic_distinct import SemanticDistinct
from filters.sizes import AspectRatio, ImageSize
from filters.where import Where
from metadata.errors import CurateError


@pytest.fixture
def written(tmp_path: pathlib.Path):
    def write(text: str | bytes) -> str:
        path = tmp_path / "mine.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return str(path)

    return write


def test_every_form_of_a_step(written) -> None:
    path = written("""
name: mine
about: Everything at once.
steps:
  - image_size
  - image_size: 300
  - aspect_ratio: {max_ratio: 2}
  - caption_length: {min_words: 2, min_chars: 4}
  - where: "text not ilike '%stock photo%'"
  - where: {sql: "original_width > 3"}
  - language: de
  - language: {language: fr}
  - clip_score: {model: b32, threshold: 0.25}
  - clip_score: {model: l14, fraction: 0.3}
  - distinct: sha256
  - distinct: {by: text, at_most: 10, seed: 3}
  - group_size: {by: url, at_most: 1000}
shards: {samples: 500}
""")
    assert open_recipe(path) == Recipe(
        name="mine",
        about="Everything at once.",
        source=path,
        steps=(
            ImageSize(), ImageSize(300), AspectRatio(2.0), CaptionLength(2, 4), Where("text not ilike '%stock photo%'"),
            Where("original_width > 3"), Language("de"), Language("fr"), ClipScore("b32", 0.25),
            ClipScoreFraction("l14", 0.3), Distinct("sha256"), Distinct("text", 10, 3), GroupSize("url", 1000),
        ),
        samples_per_shard=500,
    )  # fmt: skip


def test_the_example_of_the_documentation(written) -> None:
    lines = recipe_file.__doc__.split("\n\n")[1]
    recipe = open_recipe(written("\n".join(line.removeprefix("    ") for line in lines.splitlines())))
    assert [step.name for step in recipe.steps] == ["image_size", "language", "where", "clip_score"]


def test_the_built_in_recipes_can_be_written(written) -> None:
    yaml = "{name: basic_filter, steps: [image_size, aspect_ratio, caption_length, language]}"
    assert describe(open_recipe(written(yaml))) == describe(RECIPES["basic_filter"])
    assert recipe_file.read(written("{name: x, steps: [cld3: en]}")).steps == (Cld3(),)


def test_steps_that_need_files(written, tmp_path: pathlib.Path) -> None:
    a, b = f"{tmp_path}/a.npy", f"{tmp_path}/b.npy"
    np.save(a, np.eye(3, 768, dtype=np.float16))
    np.save(b, np.eye(3, 512, dtype=np.float16))
    recipe = open_recipe(written(f"""
name: by_features
steps:
  - caption_length: {{min_words: 0, min_chars: 6}}
  - caption_tokens
  - image_based: {{centroids: {a}, targets: {a}}}
  - image_based: {{centroids: {b}, targets: {b}, embedding: b32_img}}
  - normsim: {{targets: {a}, threshold: 3}}
  - normsim: {{targets: {a}, fraction: 0.2, of: pool, norm: linf}}
  - semantic_distinct: {{centroids: {a}, eps: 0.05}}
  - semantic_distinct: {{centroids: {b}, eps: 0.1, keep: easy, embedding: b32_txt, seed: 3}}
"""))
    assert recipe.steps == (
        CaptionLength(0, 6), CaptionTokens(2), ImageBased(a, a), ImageBased(b, b, "b32_img"), NormSim(a, 3.0),
        NormSimFraction(a, 0.2, "pool", "linf"), SemanticDistinct(a, 0.05),
        SemanticDistinct(b, 0.1, "easy", "b32_txt", 3),
    )  # fmt: skip
    assert str(tmp_path) not in str(describe(recipe)["steps"])
    for name, told in [("none.npy", "there is no such file"), ("b.npy", "has vectors of 512 numbers")]:
        text = f"{{name: a, steps: [{{normsim: {{targets: {tmp_path}/{name}, threshold: 3}}}}]}}"
        with pytest.raises(CurateError, match=rf"normsim: targets .*{name}: {told}"):
            open_recipe(written(text))


def test_steps_that_would_add_different_columns_of_one_name(written, tmp_path: pathlib.Path) -> None:
    """What the first has worked out would be read for the second's."""
    for name in "ab":
        np.save(tmp_path / f"{name}.npy", np.eye(3, 768, dtype=np.float16) * np.float16(1 if name == "a" else -1))
    a, b = ({"targets": str(tmp_path / f"{name}.npy"), "threshold": 0.5} for name in "ab")
    l14, b32 = ({"fraction": 0.5, "embedding": model} for model in ("l14", "b32"))
    for name, column, one, other in (("normsim", "normsim_l2", a, b), ("negcliploss", "negcliploss", l14, b32)):
        steps = [{name: one}, "caption_tokens", {name: one}]
        assert len(open_recipe(written(json.dumps({"name": "twice", "steps": steps}))).steps) == 3
        with pytest.raises(CurateError, match=rf"^recipe twice: step 4 \({name}\) adds the column {column}, but"):
            open_recipe(written(json.dumps({"name": "twice", "steps": [*steps, {name: other}]})))


def test_a_step_that_reads_what_another_adds(written, tmp_path: pathlib.Path) -> None:
    """The pool's column and the scorer's have one name, and what is read would be the scorer's."""
    score = "clip_l14_similarity_score"
    pq.write_table(pa.table({"uid": ["0" * 32], score: [0.5]}), tmp_path / "s.parquet")
    joined = {"fused_score": {"files": str(tmp_path / "s.parquet"), "weights": {score: 1}, "fraction": 0.5}}
    own = {"negcliploss": {"fraction": 0.5}}
    for steps, name, told in [
        ([joined, {"clip_score": {"model": "l14", "threshold": 0.3}}], score, "step 2 (clip_score)"),
        ([{"clip_score": {"model": "l14", "fraction": 0.3}}, joined], score, "step 1 (clip_score)"),
        ([own, {"where": "negcliploss < 1"}], "negcliploss", "step 2 (where)"),
    ]:
        with pytest.raises(CurateError, match=re.escape(f"{told} reads the pool's column {name}, but step ")):
            open_recipe(written(json.dumps({"name": "mixed", "steps": steps})))


def test_no_steps_keep_every_row_when_that_is_said(written) -> None:
    assert open_recipe(written("{name: all, steps: []}")).steps == ()
    for text in ("name: all", "name: all\nsteps:\n"):
        with pytest.raises(CurateError, match=r"steps is missing, but a recipe needs it\. Add it \(`steps: \[\]`"):
            open_recipe(written(text))


def test_a_fitted_step_can_be_written_back(written) -> None:
    step = ClipScore("l14", 0.24219971895217896)
    text = f"name: again\nsteps:\n- {{clip_score: {step.describe()}}}\n"
    assert open_recipe(written(text)).steps == (step,)


#: Ten lists of ten of the one before: 10^9 values in 200 bytes.
BOMB = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 10))

MISTAKES = [
    ("", ": is empty, but a recipe has a name and steps. Write at least: {name: mine, steps: []}"),
    ("# nothing", ": is empty, but"),
    ("- a", "the file is ['a'], but it is a mapping"),
    ("steps: []", "name is missing"),
    ("{name: 3, steps: []}", "name is 3, but it is text. Put it in quotes"),
    ("{name: a, steps: {}}", "steps is {}, but it is a list."),
    ("{name: a, steps: [], shard: {}}", "unknown key 'shard'. Did you mean 'shards'?"),
    ("{name: a, steps: [], shards: {sample: 3}}", "shards: unknown key 'sample'. Did you mean 'samples'?"),
    ("{name: a, steps: [], shards: {samples: 0}}", "shards have 0 samples, but at least 1 and at most 1000000 are"),
    (f"{{name: a, steps: [], shards: {{samples: {10**6 + 1}}}}}", "shards have 1000001 samples, but at least 1 and at"),
    (f"{{name: a, steps: [], shards: {{samples: {10**90}}}}}", "shards: samples is 1000"),
    ("{name: a, steps: [], shards: {samples: 1.5}}", "shards: samples is 1.5, but it is a whole number."),
    ("{name: a, steps: [], shards: {samples: true}}", "samples is True, but it is a whole number."),
    ("{name: a, steps: [], shards: 5}", "shards is 5, but it is a mapping"),
    ("{name: a, steps: [image_sise]}", ", step 1: unknown step 'image_sise'. Did you mean 'image_size'?"),
    ("{name: a, steps: [cld3, {image_size: {min_px: 3}}]}", ", step 2 (image_size): unknown parameter 'min_px'"),
    ("{name: a, steps: [{image_size: {min_side_px: '3'}}]}", "min_side_px is '3', but it is a whole number."),
    ("{name: a, steps: [{image_size: 2.5}]}", "step 1 (image_size): min_side_px is 2.5, but it is a whole number."),
    ("{name: a, steps: [{image_size: 0}]}", "step 1: image_size: min_side_px is 0, but the least is 1."),
    ("{name: a, steps: [{language: no}]}", "language is False, but it is text. Put it in quotes: YAML reads no, yes"),
    ("{name: a, steps: [{language: {model: 3}}]}", "model is 3, but it is text."),
    ("{name: a, steps: [{image_size: 3, language: en}]}", "step 1: is {'image_size': 3, 'language': 'en'}"),
    ("{name: a, steps: [3]}", "step 1: is 3, but it is one step's name"),
    ("{name: a, steps: [where]}", "step 1 (where): sql is missing, but the step needs it."),
    ("{name: a, steps: [distinct]}", "step 1 (distinct): by is missing, but the step needs it."),
    ("{name: a, steps: [{distinct: uid}]}", "step 1: distinct: unknown column 'uid'. Known: sha256, url, text."),
    ("{name: a, steps: [{group_size: text}]}", "step 1 (group_size): at_most is missing"),
    ("{name: a, steps: [{not_listed: {by: uid}}]}", "step 1 (not_listed): file is missing"),
    ("{name: a, steps: [clip_score]}", "has neither of threshold and fraction, but exactly one is needed."),
    ("{name: a, steps: [{clip_score: {threshold: 0.1, fraction: 0.1}}]}", "has both of threshold and fraction"),
    ("{name: a, steps: [{clip_score: {fraction: 0.1}}]}", "model is missing"),
    ("{name: a, steps: [{clip_score: {model: l14, fraction: 30}}]}", "fraction is 30.0, but it lies above 0"),
    ("{name: a, steps: [{clip_score: {model: l14, threshold: .nan}}]}", "threshold is nan, but it is a finite"),
    ("{name: a, steps: [{clip_score: {model: l14, threshold: -.inf}}]}", "threshold is -inf, but it is a finite"),
    ("{name: a, steps: [{clip_score: {model: l14, threshold: 1.0e+400}}]}", "threshold is inf, but"),
    ("{name: a, steps: [{aspect_ratio: .inf}]}", "step 1 (aspect_ratio): max_ratio is inf, but it is a finite number."),
    (f"{{name: a, steps: [{{clip_score: {{model: l14, fraction: {10**320}}}}}]}}", "fraction is 1000"),
    (f"{{name: a, steps: [{{image_size: {10**20}}}]}}", "min_side_px is 1000"),
    (f"{{name: a, steps: [{{caption_length: {{min_words: {1 << 63}}}}}]}}", "is 9223372036854775808, but it is a whole "
     "number of 64 bits. Mend it."),
    (f"{{name: a, steps: [{{caption_tokens: -{10**20}}}]}}", "but it is a whole number of 64 bits. Mend it."),
    (f"{{name: a, steps: [{{distinct: {{by: text, seed: {1 << 64}}}}}]}}", "seed is 18446744073709551616, but"),
    ("{name: a, steps: [{clip_score: {model: l14, fraction: 1e-1}}]}", "fraction is '1e-1', but it is a number. Write "
     "it without quotes, as 0.1 or 1.0e-1: YAML needs the point and"),
    ("name: a\nsteps:\n- language:", "(language): has nothing after the colon, but its parameters are needed there. "),
    ("{name: a, steps: [{language: [en]}]}", "language is ['en'], but it is text. Mend it."),
    ("{name: a, steps: [{caption_length: {max_words: }}]}", "max_words is without a value, but it is a whole number. "
     "Give one, or leave the name out."),
    ("{name: a/../../b, steps: []}", "name is 'a/../../b', but runs' folders are called by it: 1 to 100 letters, "),
    ("{name: a b, steps: []}", "name is 'a b', but"),
    ("{name: '', steps: []}", "name is '', but"),
    (f"{{name: {'a' * 101}, steps: []}}", "but runs' folders are called by it: 1 to 100 letters, digits and . _ "),
    ("{name: a, steps: [{clip_score: {model: ViT, threshold: 0.2}}]}", "unknown model 'ViT'. Known: b32, l14."),
    ("{name: a, steps: [{image_based: {centroids: a.npy}}]}", "step 1 (image_based): targets is missing"),
    ("{name: a, steps: [{image_based: {centroids: a, targets: b, embedding: c}}]}", "unknown embedding 'c'"),
    ("{name: a, steps: [{normsim: a.npy}]}", "(normsim): has neither of threshold and fraction, but exactly one"),
    ("{name: a, steps: [{normsim: {targets: a, fraction: 2}}]}", "step 1: normsim: fraction is 2.0, but it lies above"),
    ("{name: a, steps: [{normsim: {targets: a, threshold: 2, of: pool}}]}", "(normsim): unknown parameter 'of'"),
    ("{name: a, steps: [{where: 'sum(a) > 1'}]}", "step 1: where: 'sum(a) > 1' calls sum"),
    ("name: a\nsteps: [\n", "line 3: expected the node content, but found '<stream end>', but a recipe is plain YAML."),
    ("name: a\nname: b\nsteps: []", "line 2: the key 'name' comes twice"),
    ("name: a\nsteps:\n- image_size: {min_side_px: 1, min_side_px: 2}", "line 3: the key 'min_side_px' comes twice"),
    ("name: !!python/object/apply:os.system ['true']\nsteps: []", "line 1: an anchor, an alias or a tag (&, * or ! "),
    ("name: !!int ''\nsteps: []", "line 1: an anchor, an alias or a tag (&, * or ! without quotes), but a recipe is"),
    ("name: a\nsteps: !!bool maybe", "line 2: an anchor, an alias or a tag"),
    ("name: !!timestamp x\nsteps: []", "line 1: an anchor, an alias or a tag"),
    ("name: &a b\nabout: *a\nsteps: []", "line 1: an anchor, an alias or a tag"),
    (BOMB, "line 1: an anchor, an alias or a tag"),
    ('name: "\\ud800"\nsteps: []', "surrogates not allowed, but a recipe is plain YAML."),
    ('{name: a, steps: [{where: "text = \'\\udfff\'"}]}', "surrogates not allowed, but a recipe is plain YAML."),
    ("name: 1" + ":59" * 400 + ".5\nsteps: []", "too large"),
    ("name: 2020-99-99\nsteps: []", "but a recipe is plain YAML."),
    ("? [a]\n: 1", "line 1: found unhashable key"),
    ("[" * 10_000, "but a recipe is plain YAML."),
    (b"name: \xff", "but a recipe is plain YAML."),
    (b"name: \0", "but a recipe is plain YAML."),
]


@pytest.mark.parametrize(("text", "words"), MISTAKES, ids=range(len(MISTAKES)))
def test_mistakes_are_named_with_the_file(written, text: str, words: str) -> None:
    path = written(text)
    with pytest.raises(CurateError) as error:
        open_recipe(path)
    assert str(error.value).startswith(path)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_seeds_have_all_64_bits_and_names_any_letters(written) -> None:
    step = f"distinct: {{by: text, seed: {2**64 - 1}}}"
    recipe = recipe_file.read(written(f"{{name: größe-v1.0_字, steps: [{step}]}}"))
    assert recipe.name == "größe-v1.0_字"
    assert recipe.steps == (Distinct("text", seed=2**64 - 1),)


def test_the_largest_numbers_can_be_compared(written) -> None:
    text = f"{{name: a, steps: [image_size: {2**63 - 1}, caption_tokens: {2**63 - 1}, caption_length: {2**63 - 1}]}}"
    batch = pa.record_batch({"text": ["a b c"], "original_width": [300], "original_height": [300]})
    for step in recipe_file.read(written(text)).steps:
        assert step.keep(batch).to_pylist() == [False]


def test_a_file_that_is_not_there(tmp_path: pathlib.Path) -> None:
    with pytest.raises(CurateError, match=r"none\.yml: can't be read \(No such file or directory\)"):
        open_recipe(str(tmp_path / "none.yml"))
