"""The local runner: work is spread over processes, a death is told within seconds, nothing outlives the driver."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from metadata.errors import CurateError
from pipeline import failures

SCRIPT = """
import os, pathlib, signal, sys, time
from jobs import engines
from metadata.errors import CurateError
from pipeline.transforms import ForEach

def work(item, folder, deed):
    (pathlib.Path(folder) / f"{item}-{os.getpid()}").touch()
    if deed in ("die", "owe") and item == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    if deed == "crash" and item == 3:
        import ctypes
        ctypes.string_at(0)
    if deed == "real-time" and item == 3:
        os.kill(os.getpid(), signal.SIGRTMIN + 2)
    if deed == "end" and item == 3:
        os._exit(0)
    if deed == "memory" and item == 3:
        raise MemoryError
    if deed == "name" and item == 3:
        raise CurateError("x/\\udcff: odd")
    if deed == "text" and item == 3:
        raise ValueError("x/\\udcff: odd")
    if deed == "orphan" and item == 3:
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(60)
    if deed == "wait":
        time.sleep(60)
    if deed.startswith("second"):
        while len(both := {int(mark.name.partition("-")[2]) for mark in pathlib.Path(folder).iterdir()}) < 2:
            time.sleep(0.05)
        if os.getpid() == min(both):  # the runner waits for the first worker first
            time.sleep(60)
        if deed == "second-dies":
            os.kill(os.getpid(), signal.SIGKILL)
        raise CurateError("an item is odd")

def bare(item):
    raise ValueError("x/\\udcff: odd")

if __name__ == "__main__":
    folder, deed = sys.argv[1:]
    if deed == "few-files":
        import resource
        resource.setrlimit(resource.RLIMIT_NOFILE, (24, 24))
    engines.warm_up(images=False)
    import apache_beam as beam
    if deed == "early":
        import multiprocessing
        (nursery,) = multiprocessing.active_children()
        nursery.kill()
        nursery.join()
        time.sleep(0.5)
    def build(pipeline):
        done = pipeline | beam.Create(range(8)) | ForEach(work, folder, deed)
        if deed == "owe":  # the runner waits for what workers send
            done | beam.Map(lambda _: (0, 0)) | beam.GroupByKey()
        if deed == "bare":
            done | beam.Map(bare)
    try:
        engines.run_with("local", 8 if deed == "few-files" else 2, [])(build)
    except CurateError as error:
        print(f"told: {error}".encode(errors="backslashreplace").decode(), flush=True)
    if deed == "second-fails-early":
        time.sleep(60)
"""


@pytest.fixture
def start(tmp_path: pathlib.Path):
    """Starts the script in a process of its own; gives it and the folder that its workers leave marks in."""
    (tmp_path / "script.py").write_text(SCRIPT)
    marks = tmp_path / "marks"
    marks.mkdir()

    def run(deed: str) -> tuple[subprocess.Popen, pathlib.Path]:
        root = str(pathlib.Path(__file__).parents[2])
        process = subprocess.Popen(
            [sys.executable, tmp_path / "script.py", marks, deed],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "PYTHONPATH": root},
        )
        return process, marks

    return run


def pids(marks: pathlib.Path) -> set[int]:
    return {int(p.name.partition("-")[2]) for p in marks.iterdir()}


def alive(pid: int) -> bool:
    try:
        state = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def wait_for(condition, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not (true := condition()) and time.monotonic() < end:
        time.sleep(0.05)
    return true


def test_items_are_spread_over_the_workers(start):
    process, marks = start("nothing")
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    assert len(list(marks.iterdir())) == 8
    assert len(pids(marks)) == 2


@pytest.mark.parametrize(("deed", "words"), [
    ("die", "was killed by SIGKILL"), ("owe", "was killed by SIGKILL"), ("crash", "was killed by SIGSEGV"),
    ("real-time", "was killed by signal 36"), ("end", "ended with code 0"),
])  # fmt: skip
def test_a_dead_worker_is_told_and_hangs_nothing(start, deed, words):
    process, _ = start(deed)
    output, _ = process.communicate(timeout=60)
    assert "told: local runner: a worker process" in output
    assert words in output
    assert "run the same command again" in output


@pytest.mark.parametrize(("deed", "words"), [
    ("second-dies", "was killed by SIGKILL"), ("second-fails", "told: an item is odd"),
])  # fmt: skip
def test_no_other_worker_is_waited_for(start, deed, words):
    process, marks = start(deed)
    output, _ = process.communicate(timeout=40)
    assert words in output
    assert "Traceback" not in output
    assert wait_for(lambda: not any(alive(pid) for pid in pids(marks)), 10)


def test_no_worker_goes_on_when_the_run_has_failed(start):
    process, marks = start("second-fails-early")
    assert "told: an item is odd\n" in process.stdout  # which is read up to there
    assert wait_for(lambda: not any(alive(pid) for pid in pids(marks)), 10)
    assert process.poll() is None
    process.kill()
    process.communicate()


def test_workers_that_cannot_be_forked_are_told(start):
    process, marks = start("few-files")
    output, _ = process.communicate(timeout=40)
    assert "told: local runner: no worker process could be forked (Too many open files)" in output
    assert not pids(marks)


@pytest.mark.parametrize(("deed", "words"), [
    ("memory", "told: a worker: memory ran out."),
    ("name", r"told: x/\udcff: odd"),
    ("text", r"ValueError: x/\udcff: odd"),  # a defect, with its traceback
    ("bare", r"ValueError: x/\udcff: odd"),
])  # fmt: skip
def test_what_a_runner_would_not_carry_is_told(start, deed, words):
    process, _ = start(deed)
    output, _ = process.communicate(timeout=60)
    assert words in output


def test_a_dead_nursery_is_told_and_takes_its_workers_along(start):
    process, marks = start("orphan")
    output, _ = process.communicate(timeout=60)
    assert "told: local runner: the process that workers are forked from was killed by SIGKILL" in output
    assert "Traceback" not in output
    assert wait_for(lambda: not any(alive(pid) for pid in pids(marks)), 10)


def test_a_nursery_that_died_before_it_was_asked_is_told(start):
    process, marks = start("early")
    output, _ = process.communicate(timeout=60)
    assert "told: local runner: the process that workers are forked from was killed by SIGKILL" in output
    assert "Traceback" not in output
    assert not pids(marks)


def test_a_run_is_made_from_a_process_with_threads_too(start, tmp_path):
    (tmp_path / "script.py").write_text("import threading, time\n"
                                        "threading.Thread(target=time.sleep, args=(60,), daemon=True).start()\n"
                                        + SCRIPT)  # fmt: skip
    process, marks = start("nothing")
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    assert len(pids(marks)) == 2


def test_workers_do_not_outlive_a_killed_driver(start):
    process, marks = start("wait")
    assert wait_for(lambda: len(pids(marks)) == 2, 30)
    process.send_signal(signal.SIGKILL)
    assert wait_for(lambda: not any(alive(pid) for pid in pids(marks)), 10)
    process.wait()


def test_what_passes_between_steps_comes_through(tmp_path):
    import apache_beam as beam
    from apache_beam.pvalue import AsDict, AsList, AsSingleton

    from jobs.engines import run_with

    def build(pipeline):
        large = pipeline | "large" >> beam.Create([b"x" * (3 << 20), b""])
        pairs = pipeline | "pairs" >> beam.Create([(n % 3, n) for n in range(100)])
        sums = pairs | beam.CombinePerKey(sum)
        count = large | beam.combiners.Count.Globally()
        groups = pairs | beam.GroupByKey()
        _ = groups | beam.Map(_compare, str(tmp_path), AsList(large), AsDict(sums), AsSingleton(count))

    run_with("local", 2, [])(build)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["0", "1", "2"]


def _compare(group, folder, large, sums, count) -> None:
    key, numbers = group
    assert sorted(map(len, large)) == [0, 3 << 20]
    assert sorted(numbers) == list(range(key, 100, 3))
    assert sums == {key: sum(range(key, 100, 3)) for key in range(3)}
    assert count == 2
    (pathlib.Path(folder) / str(key)).touch()


def test_state_of_a_steps_own_is_refused():
    import apache_beam as beam
    from apache_beam.coders import VarIntCoder
    from apache_beam.transforms.userstate import BagStateSpec

    from jobs.engines import run_with

    class Remember(beam.DoFn):
        seen = BagStateSpec("seen", VarIntCoder())

        def process(self, pair, seen=beam.DoFn.StateParam(seen)):  # noqa: B008 (how Beam has it)
            seen.add(pair[1])

    with pytest.raises(Exception, match="no step has state of its own, but one"):
        run_with("local", 1, [])(lambda p: p | beam.Create([(0, 1)]) | beam.ParDo(Remember()))


def test_user_errors_reach_the_driver_as_their_sentence():
    import apache_beam as beam

    from jobs.engines import run_with
    from pipeline.transforms import ForEach

    with pytest.raises(CurateError, match=r'^pool/a\.parquet: "odd" \\ text\nwith lines$'):
        run_with("local", 1, [])(lambda p: p | beam.Create([1]) | ForEach(_fail))


def _fail(_: int) -> None:
    raise CurateError('pool/a.parquet: "odd" \\ text\nwith lines')


def test_defects_keep_their_traceback():
    import apache_beam as beam

    from jobs.engines import run_with
    from pipeline.transforms import ForEach

    with pytest.raises(Exception, match=r"(?s)ZeroDivisionError.*at work on 0"):
        run_with("local", 1, [])(lambda p: p | beam.Create([0]) | ForEach(_divide))


def _divide(n: int) -> None:
    1 / n


def test_a_full_disk_is_told_with_its_path():
    def write() -> None:
        raise OSError(28, "No space left on device", "/run/kept/000000.parquet")

    with pytest.raises(failures.MarkedError) as caught:
        failures.told(write)()
    assert failures.sentence(caught.value).startswith(
        "/run/kept/000000.parquet: No space left on device. What is finished is kept"
    )


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("the job was lost [\nTaskManager 2 is gone.\n  ...\n])\n", "TaskManager 2 is gone."),
        ("Job aborted: Lost task 1.0\n\tat org.apache.spark.Task.run(Task.scala:1)\n\nDriver stacktrace:",
         "Job aborted: Lost task 1.0"),
        ("])", "RuntimeError"),
        ("Traceback (most recent call last)\nValueError: a defect", None),
    ],
)
def test_the_reason_of_a_lost_job_is_its_last_words(text, reason):
    assert failures.outage(RuntimeError(text)) == reason
