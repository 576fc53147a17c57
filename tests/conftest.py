"""What many tests share: a toy pool in CommonPool's schema, and the command as a user runs it."""

import hashlib
import os
import pathlib
import random
import signal
import subprocess
import sys

# Sums of products are taken in another order on several threads; a worker has one, and plain calls give its bits then.
# Read when numpy is imported, so it is set before.
os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")

import hypothesis
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_sources import write_timm, write_wordnet

from jobs.cli import main

# How long an example takes says nothing of the code where several tests share a core.
hypothesis.settings.register_profile(
    "unhurried", hypothesis.settings(), deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("unhurried")

# A shell has what runs in its background ignore Ctrl-C, and so do the commands that tests start there and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

#: Files whose tests take minutes; a process of tests that came to one of them last would leave the others without work.
LONG = ["test_flink.py", "test_readme.py", "test_train.py", "test_when_things_die.py", "test_plan.py", "test_retry.py"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the long files first; see the Makefile."""
    items.sort(key=lambda item: LONG.index(item.path.name) if item.path.name in LONG else len(LONG))


SCHEMA = pa.schema(
    [
        ("uid", pa.string()),
        ("url", pa.string()),
        ("text", pa.string()),
        ("original_width", pa.int64()),
        ("original_height", pa.int64()),
        ("clip_b32_similarity_score", pa.float32()),
        ("clip_l14_similarity_score", pa.float32()),
        ("face_bboxes", pa.list_(pa.list_(pa.float64()))),
        ("sha256", pa.string()),
    ]
)

TEXTS = [
    "a photo of a red bicycle in the rain",
    "ein Foto von einem roten Fahrrad im Regen",
    "",
    "IMG_2043.JPG",
    "two words",
    "the old house by the lake at dusk",
    "красный велосипед под дождём на улице",
    "雨の中の赤い自転車の写真",
    "a\nb\tc d e f",
    "café au lait sur la table de la cuisine",
    "dog",
    "une maison près du lac au crépuscule",
    "the best of the best 🎉 party",
]


def make_rows(n: int, seed: int = 0) -> list[dict]:
    """Rows with ties, nulls, empty strings and unicode; deterministic."""
    rng = random.Random(seed)
    rows = []
    for i in range(n):
        uid = hashlib.md5(f"{seed}/{i}".encode()).hexdigest()
        rows.append(
            {
                "uid": uid,
                "url": f"http://images.test/{uid}.jpg",
                "text": rng.choice([*TEXTS, None]),
                "original_width": rng.choice([0, 1, 150, 199, 200, 201, 600, 601, 1800]),
                "original_height": rng.choice([0, 1, 150, 199, 200, 600]),
                "clip_b32_similarity_score": rng.choice(
                    [0.28, 0.27999997, round(rng.uniform(0.1, 0.4), 2), None, float("nan")]
                ),
                "clip_l14_similarity_score": round(rng.uniform(-0.1, 0.4), 2),
                "face_bboxes": [],
                "sha256": hashlib.sha256(uid.encode()).hexdigest(),
            }
        )
    return rows


def write_rows(folder: pathlib.Path, rows: list[dict], files: int = 3, **options) -> pathlib.Path:
    """A pool of `rows` in that many parquet files under `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    size = -(-len(rows) // files)
    for n in range(files):
        name = hashlib.md5(str(n).encode()).hexdigest()
        pq.write_table(
            pa.Table.from_pylist(rows[n * size : (n + 1) * size], SCHEMA), folder / f"{name}.parquet", **options
        )
    return folder


@pytest.fixture
def toy_rows() -> list[dict]:
    """1,000 rows with ties, nulls, empty strings and unicode."""
    return make_rows(1000)


@pytest.fixture
def write_pool():
    """write_pool(folder, rows, files=3, **parquet options) -> folder."""
    return write_rows


@pytest.fixture
def toy_pool(tmp_path: pathlib.Path, toy_rows: list[dict]) -> pathlib.Path:
    """`toy_rows` in 3 files."""
    return write_rows(tmp_path / "pool", toy_rows)


@pytest.fixture
def curate(tmp_path: pathlib.Path):
    """Runs the command in a process of its own, as a user does; gives the finished process."""

    def run(*args: str | pathlib.Path, **options) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "jobs.cli", *map(str, args)]
        return subprocess.run(command, capture_output=True, text=True, timeout=300, **options)

    return run


@pytest.fixture
def told(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path):
    """told(*args) -> the command's exit code, output and errors, in tmp_path: for what ends before any work.

    In this process, since one of its own takes two seconds to import Beam; what is no sentence is raised here.
    """
    monkeypatch.chdir(tmp_path)

    def run(*args: str | pathlib.Path) -> tuple[int, str, str]:
        try:
            code = main([*map(str, args)])
        except SystemExit as wanted:  # of a parser
            code = wanted.code
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def small_wordnet(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """The only WordNet and the only timm that are found are small_sources' own; gives the WordNet's folder."""
    monkeypatch.delitem(sys.modules, "timm", raising=False)
    monkeypatch.syspath_prepend(str(write_timm(tmp_path / "packages")))
    folder = write_wordnet(tmp_path / "nltk" / "corpora" / "wordnet")
    monkeypatch.setenv("NLTK_DATA", str(tmp_path / "nltk"))
    return folder
