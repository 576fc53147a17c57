"""What is said of a trainer that failed: what it raised, or that its disk is full."""

import resource
import types

import pytest

from pipeline import training

TRACEBACK = """\
Traceback (most recent call last):
  File "trainer.py", line 55, in <module>
    train()
"""
RAISED = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 3.00 GiB.\n\tGPU 0 has 139 GiB.\n"
TORCHRUN = """\
E1129 23:07:36 17971 api.py:1002] failed (exitcode: 1) local_rank: 1 (pid: 17977)
Traceback (most recent call last):
  File "run.py", line 1142, in <module>
torch.distributed.elastic.multiprocessing.errors.ChildFailedError:
""" + "============\n" * 20


@pytest.fixture
def told(tmp_path):
    """told(text) -> what is said when the trainer has printed that and failed."""

    def tell(text: str, code: int = 1) -> str:
        (tmp_path / "trainer.log").write_text(text)
        return str(training._failure(types.SimpleNamespace(out=str(tmp_path)), str(tmp_path / "trainer.log"), code))

    return tell


@pytest.mark.parametrize("rank", ["", "[rank1]: "])
@pytest.mark.parametrize("after", ["", TORCHRUN])
def test_what_was_raised_last_is_shown_and_not_what_torchrun_says_of_it(told, tmp_path, rank, after):
    printed = TRACEBACK + "ValueError: the first\n\n" + TRACEBACK + RAISED
    raised = "".join(rank + line for line in printed.splitlines(True))
    sentence, first, second, *_ = told("a\n" * 50 + raised + after).splitlines()
    assert sentence == (
        f"{tmp_path}: the trainer ended with exit code 1, but the training is not done. Look at "
        f"{tmp_path}/trainer.log, which has the following, then run the same command again to go on from the last "
        f"checkpoint:"
    )
    assert first == f"    {rank}torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 3.00 GiB."
    assert second.endswith("  GPU 0 has 139 GiB.")


def test_of_one_that_raised_nothing_the_last_lines_are_shown(told):
    sentence, *shown = told("".join(f"{n}\n" for n in range(50)), -9).splitlines()
    assert "the trainer was killed by SIGKILL, but" in sentence
    assert shown == [f"    {n}" for n in range(38, 50)]


def test_a_full_disk_is_named(told, tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))  # as full as a disk can be made here
    try:
        said = told(TRACEBACK + "RuntimeError: [enforce fail at inline_container.cc:671] . unexpected pos 229120\n")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert said == (
        f"{tmp_path}: the trainer ended with exit code 1, and nothing can be written there any more (File too large), "
        f"but checkpoints must be. Make room, then run the same command again to go on from the last one."
    )
