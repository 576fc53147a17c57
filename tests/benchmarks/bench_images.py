"""Images: whole commands against img2dataset's own, with http and https; memory; ours against its resizer alone."""

import contextlib
import hashlib
import json
import pathlib
import shutil
import statistics
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator, Sequence

import bench_pool
import photographs
import pyarrow as pa
import pyarrow.parquet as pq
from measure import Cost, Pairs, Row, environment, on_core, pairs, run, two_cores

HERE = pathlib.Path(__file__).parent
WORKERS = 2
#: So that each worker has several shards.
SHARDS = 4


def rows(scratch: pathlib.Path, number: int, size: int = 2000, distinct: int = photographs.DISTINCT) -> Iterator[Row]:
    """The table's lines, measured one by one.

    Args:
        scratch: a folder for photographs, which stay, and outputs.
        number: of alternating runs.
        size: images that are fetched, of which `distinct` are different.
    """
    photos = scratch / f"photographs-{distinct}"
    photographs.make(photos, distinct)
    recipe = scratch / "everything.yaml"
    recipe.write_text(f"name: everything\nsteps: []\nshards: {{samples: {-(-size // SHARDS)}}}\n")
    with server(photos) as host:
        pool = make_pool(scratch / "pool-images", f"http://{host}", photos, size)
        measured = whole_commands(scratch, pool, recipe, host, size, number)
        yield from against_img2dataset(f"{size:,} images", measured, size, 1.7)
    yield without_start_up(scratch, recipe, photos, number, size)
    with certificates(scratch) as (certificate, authority), server(photos, certificate) as host:
        pool = make_pool(scratch / "pool-images", f"https://{host}", photos, size)
        trust = {"SSL_CERT_FILE": str(authority)}
        measured = whole_commands(scratch, pool, recipe, host, size, number, trust)
        target = 3.0 if sys.version_info < (3, 12) else None  # from 3.12 on, a TLS context is quick to make
        yield next(against_img2dataset(f"{size:,} images, https", measured, size, target))


@contextlib.contextmanager
def server(photos: pathlib.Path, *certificate: pathlib.Path, where: Sequence[str] = ()) -> Iterator[str]:
    """The light server in a process of its own, whose command begins with `where`; gives its host and port."""
    command = [*where, sys.executable, str(HERE / "light_server.py"), str(photos), *map(str, certificate)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield f"127.0.0.1:{int(process.stdout.readline())}"
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def certificates(scratch: pathlib.Path) -> Iterator[tuple[pathlib.Path, pathlib.Path]]:
    """A certificate for 127.0.0.1 with its key; and a system's usual authorities with the one it is from. PEM files.

    The usual ones matter: reading them is what a TLS context costs, and img2dataset makes one for each request.
    """
    import certifi
    import trustme

    authority = trustme.CA()
    own, root = scratch / "server.pem", scratch / "authority.pem"
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(own)
    root.write_bytes(pathlib.Path(certifi.where()).read_bytes() + authority.cert_pem.bytes())
    yield own, root


def make_pool(folder: pathlib.Path, address: str, photos: pathlib.Path, size: int) -> pathlib.Path:
    """A pool in CommonPool's schema whose links lead to the photographs."""
    names = sorted(path.name for path in photos.iterdir())
    digests = [photographs.digest(photos / name) for name in names]
    table = bench_pool.table(0, size)
    for column, values in (
        ("url", [f"{address}/{names[n % len(names)]}?{n}" for n in range(size)]),
        ("sha256", [digests[n % len(names)] for n in range(size)]),
    ):
        table = table.set_column(table.column_names.index(column), column, pa.array(values))
    folder.mkdir(exist_ok=True)
    pq.write_table(table, folder / "part.parquet")
    return folder


def whole_commands(
    scratch: pathlib.Path, pool: pathlib.Path, recipe: pathlib.Path, host: str, size: int, number: int,
    env: dict[str, str] | None = None,
) -> Pairs:  # fmt: skip
    """Our command and img2dataset's on one pool; raises unless every JPEG is the same."""
    ours, peer = scratch / "ours-images", scratch / "peer-images"

    def our_command() -> Cost:
        shutil.rmtree(ours, ignore_errors=True)
        options = {"--pool": f"{pool}/", "--recipe": recipe, "--allow-host": host, "--workers": WORKERS, "--out": ours}
        return run([sys.executable, "-m", "jobs.cli", *(str(word) for pair in options.items() for word in pair)], env)

    def peers_command() -> Cost:
        shutil.rmtree(peer, ignore_errors=True)
        script = str(HERE / "peer_img2dataset.py")
        return run([sys.executable, script, str(pool), str(peer), str(WORKERS), str(-(-size // SHARDS))], env)

    measured = pairs(our_command, peers_command, number)
    check_equal(ours / "shards", peer, size)
    return measured


def check_equal(ours: pathlib.Path, peer: pathlib.Path, size: int) -> None:
    """Raises unless both hold `size` samples, and for each uid the same JPEG."""
    found, expected = jpegs(ours), jpegs(peer)
    if len(found) != size or found != expected:
        same = sum(expected.get(uid) == digest for uid, digest in found.items())
        raise RuntimeError(f"{len(found)} images and img2dataset's {len(expected)}, of {size}: {same} are the same.")


def jpegs(folder: pathlib.Path) -> dict[str, str]:
    """Hashes of the JPEGs in a folder's tars, by uid."""
    found = {}
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            members = {member.name: tar.extractfile(member).read() for member in tar if member.isfile()}
        for name, data in members.items():
            if name.endswith(".json"):
                jpeg = members[name.removesuffix("json") + "jpg"]
                found[json.loads(data)["uid"]] = hashlib.sha256(jpeg).hexdigest()
    return found


def against_img2dataset(what: str, measured: Pairs, size: int, target: float | None) -> Iterator[Row]:
    """Two lines: images a second of the whole commands, and memory."""
    (ours, other), ratio = measured.wall_s(), measured.ratio()
    words, met = (f">= {target:g} times", ratio >= target) if target else ("", None)
    rates = f"{size / ours:.0f} images/s", f"{size / other:.0f} images/s img2dataset"
    yield Row(what, *rates, f"{ratio:.2f}", words, met, measured.memory())
    ours, other = (max(cost.all_mb for cost in costs) for costs in measured)
    yield Row("  memory of all processes", f"{ours:.0f} MB", f"{other:.0f} MB img2dataset", f"{ours / other:.2f}",
              "<= 1/3", ours / other <= 1 / 3)  # fmt: skip


def without_start_up(scratch: pathlib.Path, recipe: pathlib.Path, photos: pathlib.Path, number: int, size: int) -> Row:
    """Images a second from a run's first shard to its last, against decode, resize and encode alone meanwhile.

    Both work at the same time, each on a core of its own, and change cores from pair to pair: on a machine whose speed
    comes and goes, they would differ by more than what is to be measured, one after the other. Ours has all that it
    needs on its core, the server too.
    """
    taken, out = [], scratch / "ours-images"
    for each in range(number):
        ours, other = two_cores(each)
        shutil.rmtree(out, ignore_errors=True)
        with server(photos, where=on_core(ours)) as host, resizer_alone(scratch, photos, other) as ends:
            pool = make_pool(scratch / "pool-images", f"http://{host}", photos, size)
            run([*on_core(ours), sys.executable, "-m", "jobs.cli", "--pool", f"{pool}/", "--recipe", str(recipe),
                 "--allow-host", host, "--workers", "1", "--out", str(out)])  # fmt: skip
            written = sorted(path.stat().st_mtime for path in (out / "shards").glob("*.tar"))
            resized = sum(written[0] < end <= written[-1] for end in ends())
        if not resized:
            raise RuntimeError(f"{size} images take too short a time to compare. Take more of them.")
        taken.append([images / (written[-1] - written[0]) for images in (size - size // SHARDS, resized)])
    rate, alone = (statistics.median(rates) for rates in zip(*taken, strict=True))
    ratio = statistics.median(a / b for a, b in taken)
    return Row("  without start-up", f"{rate:.0f} images/s", f"{alone:.0f} images/s resizer alone", f"{ratio:.2f}",
               ">= 0.9", ratio >= 0.9)  # fmt: skip


@contextlib.contextmanager
def resizer_alone(scratch: pathlib.Path, photos: pathlib.Path, core: int) -> Iterator[Callable[[], list[float]]]:
    """img2dataset's resizer at work on that core until the block ends; gives what tells when each image was done."""
    log = scratch / "resized.txt"
    with open(log, "w") as file:
        command = [*on_core(core), sys.executable, str(HERE / "floor_images.py"), str(photos)]
        process = subprocess.Popen(command, stdout=file, env=environment())
    try:
        while not log.read_bytes():  # it imports for seconds
            if process.poll() is not None:
                raise RuntimeError(f"img2dataset's resizer ended with {process.returncode}.")
            time.sleep(0.01)
        yield lambda: [float(line) for line in log.read_text().split("\n")[:-1]]
    finally:
        process.kill()
        process.wait()
