"""img2dataset's resizer and face blurrer, without the rest of img2dataset.

The package imports its whole command when it is imported: wandb, pandas, webdataset, and torch where there is one; 1.4
to 1.9 s and up to 670 MB in every worker, for two modules of arithmetic. So these two are imported under a bare
stand-in for the package, which goes again afterwards. Meanwhile the Hub's client isn't there: albumentations, which the
resizer imports, would load it to share transforms, an eighth of a second more.
"""

import functools
import importlib
import importlib.util
import os
import sys
import types

from pipeline.options import ImageOptions

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # or its import asks the network for updates
# Read when OpenCV is imported. Headers may lie: of a TIFF that has its sizes twice, Pillow takes the others.
os.environ["OPENCV_IO_MAX_IMAGE_PIXELS"] = str(ImageOptions.max_pixels)


def _module(name: str) -> types.ModuleType:
    """The module of that name in img2dataset."""
    if "img2dataset" in sys.modules:
        return importlib.import_module(f"img2dataset.{name}")
    spec = importlib.util.find_spec("img2dataset")
    if spec is None or spec.submodule_search_locations is None:
        raise ModuleNotFoundError("img2dataset is not installed")
    stand_in = types.ModuleType("img2dataset")
    stand_in.__path__ = list(spec.submodule_search_locations)
    hub = sys.modules.get("huggingface_hub")
    # None is what Python takes for a package that can't be had.
    sys.modules |= {"img2dataset": stand_in, "huggingface_hub": None}  # type: ignore[dict-item]
    try:
        return importlib.import_module(f"img2dataset.{name}")
    finally:
        del sys.modules["img2dataset"], sys.modules["huggingface_hub"]
        if hub is not None:
            sys.modules["huggingface_hub"] = hub


_resizer = _module("resizer")
# It makes a transform for each image, whose arguments albumentations takes a third of a millisecond to check: a
# fiftieth of what an image of a megapixel takes in all. Here the same arguments make one.
_once = functools.cache(_resizer.A.LongestMaxSize)
_resizer.A = types.SimpleNamespace(**vars(_resizer.A) | {"LongestMaxSize": _once})  # type: ignore[attr-defined]

Resizer = _resizer.Resizer
BoundingBoxBlurrer = _module("blurrer").BoundingBoxBlurrer
