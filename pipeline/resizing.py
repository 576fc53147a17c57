"""img2dataset's resizer and face blurrer, without the rest of img2dataset.

The package imports its whole command when it is imported: wandb, pandas, webdataset, and torch where there is one; 1.4
to 1.9 s and up to 670 MB in every worker, for two modules of arithmetic. So these two are imported under a bare
stand-in for the package, which goes again afterwards.
"""

import functools
import importlib
import importlib.util
import os
import sys
import types

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # or its import asks the network for updates


def _module(name: str) -> types.ModuleType:
    """The module of that name in img2dataset."""
    if "img2dataset" in sys.modules:
        return importlib.import_module(f"img2dataset.{name}")
    spec = importlib.util.find_spec("img2dataset")
    if spec is None or spec.submodule_search_locations is None:
        raise ModuleNotFoundError("img2dataset is not installed")
    stand_in = types.ModuleType("img2dataset")
    stand_in.__path__ = list(spec.submodule_search_locations)
    sys.modules["img2dataset"] = stand_in
    try:
        return importlib.import_module(f"img2dataset.{name}")
    finally:
        del sys.modules["img2dataset"]


_resizer = _module("resizer")
# It makes a transform for each image, whose arguments albumentations takes a third of a millisecond to check: a
# fiftieth of what an image of a megapixel takes in all. Here the same arguments make one.
_once = functools.cache(_resizer.A.LongestMaxSize)
_resizer.A = types.SimpleNamespace(**vars(_resizer.A) | {"LongestMaxSize": _once})  # type: ignore[attr-defined]

Resizer = _resizer.Resizer
BoundingBoxBlurrer = _module("blurrer").BoundingBoxBlurrer
