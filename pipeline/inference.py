"""Parts through Beam's RunInference: its elements are addresses, and its model handler reads, fetches and writes."""

from collections.abc import Sequence
from typing import Any

import apache_beam as beam
import open_clip  # noqa: F401  # workers are forked from a process that has it
import torch
from apache_beam.ml.inference.base import ModelHandler, RunInference
from apache_beam.pvalue import AsList

from metadata.errors import CurateError, printable
from pipeline import failures, scored_files
from pipeline.encoding import EncodeJob, Part, encode_parts
from pipeline.models import Model, open_model
from pipeline.transforms import Spread

#: Parts that are given to a model at once: within them the images of the next are fetched while one is encoded.
_PARTS = 64


class OpenClip(ModelHandler[Part, int, Model]):
    """An open_clip model of a worker's own; parts in, the numbers of those that are written out."""

    def __init__(self, job: EncodeJob) -> None:
        super().__init__(min_batch_size=_PARTS, max_batch_size=_PARTS)  # the same, or Beam tries out sizes by the clock
        self.job = job

    def load_model(self) -> Model:
        torch.set_num_threads(self.job.threads)
        return _opened(self.job)

    def run_inference(
        self, batch: Sequence[Part], model: Model, inference_args: dict[str, Any] | None = None
    ) -> list[int]:
        return failures.told(encode_parts)(batch, model, self.job)


@failures.told
def _opened(job: EncodeJob) -> Model:
    model = open_model(job.model, job.pretrained)
    if (model.weights, model.config) != (job.weights, job.config):
        raise CurateError(f"--model {printable(job.model)}: its weights or config have changed since the run began, "
                          f"but a pool is scored by one model. Put them back, or score anew: --overwrite.")  # fmt: skip
    return model


class ScoreParts(beam.PTransform):
    """Parts in; once all of them are encoded, the pool files that they make up are written."""

    def __init__(self, job: EncodeJob, files: Sequence[scored_files.ScoredFile]) -> None:
        super().__init__()
        self.job, self.files = job, files

    def expand(self, parts):
        encoded = parts | RunInference(OpenClip(self.job))
        return (
            parts.pipeline
            | beam.Impulse()
            | "Files" >> Spread(self.files)
            | "Write" >> beam.Map(_write, self.job.out, self.job.dims, AsList(encoded))
        )


@failures.told
def _write(file: scored_files.ScoredFile, out: str, dims: int, _encoded: list[int]) -> None:
    scored_files.write(file, out, dims)
