"""The process that trains: open_clip's own trainer, with what it lacks. `pipeline.training` starts it.

    python -m pipeline.trainer [--config FILE.json] [--follow-stdin] FLAGS OF open_clip_train.main …

With webdataset 0.2.96 or later open_clip 3.3's trainer stops at KeyError 'fname', for it knows nothing of the marks
that now end a tar; and it gives a model on a CPU to DistributedDataParallel with a device that this doesn't take.
"""

import argparse
import functools
import inspect
import logging
import os
import sys
import threading
from collections.abc import Sequence
from typing import Any


def main(argv: Sequence[str]) -> int:
    """Trains; the exit code."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--config", help="of a model that open_clip doesn't know, which gets the file's name")
    parser.add_argument("--follow-stdin", action="store_true", help="end when standard input does")
    own, flags = parser.parse_known_args([word for word in argv if word != "--"])
    if own.follow_stdin:
        threading.Thread(target=_follow, daemon=True).start()
    import open_clip
    from open_clip_train.main import main as train

    _mend()
    if own.config:
        open_clip.add_model_config(own.config)
    try:
        return 1 if train(flags) == -1 else 0
    finally:
        logging.disable()  # what torch counted it would log at the exit, below what was raised


def _follow() -> None:
    """Ends this process with the one that holds the other end of standard input, however that one ends."""
    os.read(0, 1)
    os._exit(1)


def _mend() -> None:
    import open_clip_train.data as data
    import torch

    if "eof_value" in inspect.signature(data.tar_file_expander).parameters:
        data.tar_file_expander = functools.partial(data.tar_file_expander, eof_value=None)
    if not torch.cuda.is_available():
        modules: Any = torch.nn.parallel
        parallel = modules.DistributedDataParallel
        modules.DistributedDataParallel = lambda model, device_ids, **options: parallel(model, **options)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
