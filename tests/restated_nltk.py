"""nltk 3.8.1's wordnet.synsets(word)[0].offset(), restated from WordNet's files as plainly as it can be."""

import pathlib

ENDINGS = {
    "noun": [("s", ""), ("ses", "s"), ("ves", "f"), ("xes", "x"), ("zes", "z"), ("ches", "ch"), ("shes", "sh"),
             ("men", "man"), ("ies", "y")],
    "verb": [("s", ""), ("ies", "y"), ("es", "e"), ("es", ""), ("ed", "e"), ("ed", ""), ("ing", "e"), ("ing", "")],
    "adj": [("er", ""), ("est", ""), ("er", "e"), ("est", "e")],
    "adv": [],
}  # fmt: skip


def read(folder: str | pathlib.Path) -> dict:
    """part of speech -> (word -> offsets of its synsets, word -> its irregular base forms)."""
    found = {}
    for part in ENDINGS:
        offsets, irregular = {}, {}
        for line in pathlib.Path(folder, f"index.{part}").read_text().splitlines():
            if not line.startswith(" "):
                fields = line.split()
                offsets[fields[0]] = [int(offset) for offset in fields[-int(fields[2]) :]]
        for line in pathlib.Path(folder, f"{part}.exc").read_text().splitlines():
            form, *bases = line.split()
            irregular[form] = bases
        found[part] = offsets, irregular
    return found


def first_synset(word: str, wordnet: dict) -> int | None:
    """The offset, or None for a word that has none."""
    word = word.lower()
    synsets = [
        offset
        for part, (offsets, irregular) in wordnet.items()
        for form in morphy(word, part, offsets, irregular)
        for offset in offsets[form]
    ]
    return synsets[0] if synsets else None


def morphy(form: str, part: str, known: dict, irregular: dict) -> list[str]:
    def apply(forms: list[str]) -> list[str]:
        return [f[: -len(old)] + new for f in forms for old, new in ENDINGS[part] if f.endswith(old)]

    def there(forms: list[str]) -> list[str]:
        return [f for f in dict.fromkeys(forms) if f in known]

    if form in irregular:
        return there([form, *irregular[form]])
    forms = apply([form])
    found = there([form, *forms])
    while not found and forms:
        forms = apply(forms)
        found = there(forms)
    return found


def names_one(text: str | None, wordnet: dict, wanted: set[int]) -> int | None:
    """DataComp's loop over a caption's words: the synset at which it ends with True, else None."""
    return next((offset for word in (text or "").split() if (offset := first_synset(word, wordnet)) in wanted), None)
