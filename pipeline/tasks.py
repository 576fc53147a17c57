"""DataComp's evaluation tasks: what they are called, how large they are and which of their numbers counts."""

import re
from typing import NamedTuple

from metadata import plain_yaml
from metadata.errors import CurateError, printable, unknown
from pipeline import storage


class Task(NamedTuple):
    """A task by its key.

    Attributes:
        key: such as "vtab/dtd".
        name: as people call it, and results name it.
        size: its images, or games in WinoGAViL; None where nobody says.
        main_metric: the number of the task that counts.
    """

    key: str
    name: str
    size: int | None = None
    main_metric: str = "acc1"

    @property
    def folder(self) -> str:
        """Its folder in a folder of evaluation sets, which is also its repo's name on the Hub."""
        group, _, rest = self.key.partition("/")
        if group in _OF_NLPHUJI:
            return rest
        return f"wds_{self.key.removeprefix('fairness/').replace('/', '-')}_test"

    @property
    def repo(self) -> str:
        """Its dataset on the Hub, where DataComp has it from."""
        return f"{'nlphuji' if self.key.split('/')[0] in _OF_NLPHUJI else 'djghosh'}/{self.folder}"


_OF_NLPHUJI = ("retrieval", "misc")
_RECALL = "mean_per_class_recall"

#: The 38 that count, by key. Source: DataComp (arXiv:2304.14108), table of the evaluation sets; its tasklist.yml.
DATACOMP = {
    task.key: task
    for task in (
        Task("vtab/caltech101", "Caltech-101", 6085, _RECALL),
        Task("cifar10", "CIFAR-10", 10000),
        Task("vtab/cifar100", "CIFAR-100", 10000),
        Task("vtab/clevr_count_all", "CLEVR Counts", 15000),
        Task("vtab/clevr_closest_object_distance", "CLEVR Distance", 15000),
        Task("country211", "Country211", 21100),
        Task("vtab/dtd", "Describable Textures", 1880),
        Task("vtab/eurosat", "EuroSAT", 5400),
        Task("fgvc_aircraft", "FGVC Aircraft", 3333, _RECALL),
        Task("food101", "Food-101", 25250),
        Task("gtsrb", "GTSRB", 12630),
        Task("imagenet1k", "ImageNet 1k", 50000),
        Task("imagenet_sketch", "ImageNet Sketch", 50889),
        Task("imagenetv2", "ImageNet v2", 10000),
        Task("imagenet-a", "ImageNet-A", 7500),
        Task("imagenet-o", "ImageNet-O", 2000),
        Task("imagenet-r", "ImageNet-R", 30000),
        Task("vtab/kitti_closest_vehicle_distance", "KITTI Vehicle Distance", 711),
        Task("mnist", "MNIST", 10000),
        Task("objectnet", "ObjectNet", 18574),
        Task("vtab/flowers", "Oxford Flowers-102", 6149, _RECALL),
        Task("vtab/pets", "Oxford-IIIT Pet", 3669, _RECALL),
        Task("voc2007", "Pascal VOC 2007", 14976),
        Task("vtab/pcam", "PatchCamelyon", 32768),
        Task("renderedsst2", "Rendered SST2", 1821),
        Task("vtab/resisc45", "RESISC45", 6300),
        Task("cars", "Stanford Cars", 8041),
        Task("stl10", "STL-10", 8000),
        Task("sun397", "SUN397", 108754),
        Task("vtab/svhn", "SVHN", 26032),
        Task("retrieval/flickr_1k_test_image_text_retrieval", "Flickr", 1000, "mean_recall@1"),
        Task("retrieval/mscoco_2014_5k_test_image_text_retrieval", "MSCOCO", 5000, "mean_recall@1"),
        Task("misc/winogavil", "WinoGAViL", 3563, "jaccard_score_10-12"),
        Task("wilds/iwildcam", "iWildCam", 42791, "F1-macro_all"),
        Task("wilds/camelyon17", "Camelyon17", 85054),
        Task("wilds/fmow", "FMoW", 22108, "acc_worst_region"),
        Task("fairness/dollar_street", "Dollar Street", 3503, "acc_top5_wg"),
        Task("fairness/geode", "GeoDE", 12488, "acc_wg"),
    )
}
#: DataComp lists these as well, but they have no main metric and count for no average.
NOT_COUNTED = ("fairness/fairface", "fairness/utkface")

_VTAB = ("vtab/caltech101", "vtab/cifar100", "vtab/clevr_count_all", "vtab/clevr_closest_object_distance", "vtab/dtd",
         "vtab/eurosat", "vtab/kitti_closest_vehicle_distance", "vtab/flowers", "vtab/pets", "vtab/pcam",
         "vtab/resisc45", "vtab/svhn", "sun397")  # fmt: skip
#: What DataComp reports the mean of.
GROUPS = {
    "ImageNet": ("imagenet1k",),
    "ImageNet dist. shifts": ("imagenet_sketch", "imagenetv2", "imagenet-a", "imagenet-o", "imagenet-r", "objectnet"),
    "VTAB": _VTAB,
    "Retrieval": tuple(key for key in DATACOMP if key.split("/")[0] in _OF_NLPHUJI),
    "Average": tuple(DATACOMP),
}


def named(text: str) -> list[Task]:
    """The tasks that `--tasks` names: `datacomp`, keys with commas between them, or a file as DataComp's tasklist.yml.

    Raises:
        CurateError: there is no such task or file, or the file is none of tasks.
    """
    if text == "datacomp":
        return list(DATACOMP.values())
    if text.endswith((".yml", ".yaml")):
        return _listed(text)
    for key in text.split(","):
        if key in NOT_COUNTED:
            raise CurateError(f"--tasks {key}: is on DataComp's list, but only the 38 tasks that have a main metric "
                              f"are evaluated. Leave it out.")  # fmt: skip
        if key not in DATACOMP:
            raise unknown("task", key, ["datacomp", *DATACOMP], where="--tasks")
    return [DATACOMP[key] for key in dict.fromkeys(text.split(","))]


def _listed(path: str) -> list[Task]:
    """The tasks of a file that count: YAML, key to {name, size, main_metric}, each of these DataComp's or a default."""
    where = f"--tasks {printable(path)}"
    needed = "tasks are needed as plain YAML, {name, size, main_metric} by key"
    try:
        text = storage.read(path)
    except OSError as error:
        raise CurateError(f"{where}: {error.strerror}, but tasks are read from there. Give `datacomp`, keys of its "
                          f"tasks, or a file.") from error  # fmt: skip
    found = plain_yaml.parse(text, where, needed) or {}
    if not isinstance(found, dict) or not all(isinstance(about, dict | None) for about in found.values()):
        raise CurateError(f"{where}: is no list of tasks, but {needed}. Mend it.")
    listed = {key: about or {} for key, about in found.items() if key not in NOT_COUNTED}
    parts = ("name", "size", "main_metric")
    tasks = [DATACOMP.get(key, Task(key, key))._replace(**{part: about[part] for part in parts if part in about})
             for key, about in listed.items()]  # fmt: skip
    if not tasks:
        raise CurateError(f"{where}: has no task that counts, but at least one is evaluated. Add it, "
                          f"as in cifar10: {{size: 10000}}.")  # fmt: skip
    for task in tasks:
        if not isinstance(task.key, str) or not re.fullmatch(r"\w[\w.@-]*(/\w[\w.@-]*)?", task.key):
            raise CurateError(f"{where}: the key {printable(task.key)!r}, but a key is letters, "
                              f"digits and .@_- with one slash at most. Mend it.")  # fmt: skip
        if task.size is not None and (type(task.size) is not int or task.size < 1):
            raise CurateError(f"{where}: the size of {task.key} is {printable(repr(task.size))}, but "
                              f"it is a whole number above 0. Mend it, or leave it out.")  # fmt: skip
        for what, word in ("name", task.name), ("main_metric", task.main_metric):
            if not isinstance(word, str):
                raise CurateError(f"{where}: the {what} of {task.key} is {printable(repr(word))}, "
                                  f"but it is a text. Mend it, or leave it out.")  # fmt: skip
    return tasks
