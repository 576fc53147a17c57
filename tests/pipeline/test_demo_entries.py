"""The entry lists that ship for the demo pool are its world's words, no more and no less."""

from metadata import entries
from pipeline.pools.demo_shapes import SHAPES
from pipeline.pools.demo_words import _FOREIGN, _PLURALS, TRANSLATIONS
from pipeline.pools.demo_world import COLOURS


def english() -> list[str]:
    """Things, also in the plural, and colours."""
    return list(dict.fromkeys([*SHAPES, *(_PLURALS.get(shape, shape + "s") for shape in SHAPES), *COLOURS]))


def test_the_english_list():
    table = entries.read("demo")
    assert table["entry"].to_pylist() == english()
    assert table["language"].null_count == table.num_rows


def test_the_list_of_all_languages():
    table = entries.read("demo_worldwide").select(["language", "entry"]).to_pylist()
    foreign = {
        language: dict.fromkeys(words[language] for words in TRANSLATIONS.values()) for language in _FOREIGN
    }
    expected = [(language, entry) for language, own in {"en": english(), **foreign}.items() for entry in own]
    assert [(row["language"], row["entry"]) for row in table] == expected
