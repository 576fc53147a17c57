"""Zero-shot numbers are those of clip-benchmark's and DataComp's loops, restated with torch, on a real small model."""

import io
import pathlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny_model
from PIL import Image
from task_sets import NAMES, TEMPLATES, npy, picture, write_tar

from metadata.errors import CurateError
from pipeline import made_tasks, models, task_files, zero_shot
from pipeline.made_tasks import Made
from pipeline.tasks import Task

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> models.Model:
    pytest.importorskip("open_clip")
    return models.open_model(str(tiny_model.write(tmp_path_factory.mktemp("model") / "tiny")))


def features(model, pictures: list[bytes]):
    import torch

    with torch.no_grad():
        images = [model.transform(Image.open(io.BytesIO(data)).convert("RGB")) for data in pictures]
        return torch.cat([torch.nn.functional.normalize(model.network.encode_image(i[None]), dim=-1) for i in images])


def text_features(model, texts: list[str]):
    import torch

    with torch.no_grad():
        return torch.nn.functional.normalize(model.network.encode_text(model.tokenize(texts)), dim=-1)


def written(folder: pathlib.Path, key: str, samples: list[Made], classes=(), templates=()) -> task_files.TaskFiles:
    made_tasks.write_set(str(folder), Task(key, key), samples, classes, templates)
    return task_files.look(str(folder / Task(key, key).folder))


def test_classification_is_the_plain_loop(model, tmp_path):
    import torch

    labels = np.random.default_rng(0).integers(0, len(NAMES), 40)
    pictures = [picture(n, "webp" if n % 3 else "png") for n in range(40)]
    samples = [Made(data, "png", int(label)) for data, label in zip(pictures, labels, strict=True)]
    files = written(tmp_path, "own", samples, NAMES, TEMPLATES)
    seen: list[int] = []
    found = zero_shot.classify(model, files, "own", 7, seen.append)
    assert seen == [7, 14, 21, 28, 35, 40]
    heads = []
    for name in NAMES:
        mean = text_features(model, [template.format(c=name) for template in TEMPLATES]).mean(dim=0)
        heads.append(mean / mean.norm())
    logits = 100.0 * features(model, pictures) @ torch.stack(heads, dim=1)
    best, target = logits.topk(5, 1)[1], torch.tensor(labels)[:, None]
    assert found["acc1"] == (best[:, :1] == target).any(1).float().mean().item()
    assert found["acc5"] == pytest.approx((best == target).any(1).float().mean().item())
    of_class = [(best[labels == c, 0] == c).float().mean().item() for c in np.unique(labels)]
    assert found["mean_per_class_recall"] == pytest.approx(np.mean(of_class))
    assert 0 < found["acc1"] < found["acc5"] < 1


def test_retrieval_is_the_plain_loop(model, tmp_path):
    import torch

    texts = [[f"{name} number {n}" for name in NAMES[: 1 + n % 3]] for n in range(30)]
    pictures = [picture(n) for n in range(30)]
    files = written(tmp_path, "own", [Made(d, "png", t) for d, t in zip(pictures, texts, strict=True)])
    found = zero_shot.retrieve(model, files, 8, lambda done: None)
    image_of = [n for n, some in enumerate(texts) for _ in some]
    scores = text_features(model, [text for some in texts for text in some]) @ features(model, pictures).T
    positive = torch.zeros_like(scores, dtype=torch.bool)
    positive[torch.arange(len(scores)), image_of] = True
    for k in (1, 5, 10):
        for name, values, own in (("image", scores, positive), ("text", scores.T, positive.T)):
            hits = own.gather(1, values.topk(k, dim=1)[1]).any(1).float().mean().item()
            assert found[f"{name}_retrieval_recall@{k}"] == pytest.approx(hits)
    assert 0 < found["text_retrieval_recall@10"] < 1


def test_winogavil_is_the_plain_loop(model, tmp_path):
    rng, rows, expected = np.random.default_rng(1), [], []
    for number, size in enumerate([5, 6, 10, 12, 12, 5]):
        pictures = [picture(100 * number + n) for n in range(size)]
        names = [f"image {n}" for n in range(size)]
        rows.append({
            "cue": NAMES[number], "candidates": names,
            "candidate_images": [{"bytes": data, "path": "x"} for data in pictures],
            "associations": [str(name) for name in rng.choice(names, 1 + number % 3, replace=False)],
        })  # fmt: skip
        wanted = np.isin(names, rows[-1]["associations"])
        cue = ("An " if NAMES[number][0] in "aeiou" else "A ") + NAMES[number]
        cosines = (text_features(model, [cue]) @ features(model, pictures).T)[0].numpy()
        picked = np.isin(np.arange(size), np.argsort(cosines)[-wanted.sum() :])
        expected.append((picked & wanted).sum() / (picked | wanted).sum())
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "0.parquet")
    found = zero_shot.associate(model, task_files.look(str(tmp_path)), 4, lambda done: None)
    assert found["avg_jaccard_score"] == pytest.approx(np.mean(expected))
    assert found["jaccard_score_10-12"] == pytest.approx(np.mean(expected[2:5]))
    assert found["jaccard_score_5"] == pytest.approx((expected[0] + expected[5]) / 2)


def test_groups_come_from_the_metadata(model, tmp_path):
    rng = np.random.default_rng(2)
    labels, regions, years = rng.integers(0, 6, 30), rng.integers(0, 3, 30), rng.integers(0, 2, 30)
    files = written(tmp_path, "own", [Made(picture(0), "png", 0)], NAMES, TEMPLATES)

    def refill(metadata) -> None:
        members = []
        for n in range(30):
            members += [(f"s{n:02}.png", picture(n)), (f"s{n:02}.cls", str(labels[n]).encode())]
            members += [(f"s{n:02}.npy", npy(np.array(metadata(n))))]
        write_tar(pathlib.Path(files.shards[0]), members)

    refill(lambda n: [regions[n], years[n], labels[n]])
    found = zero_shot.classify(model, files, "wilds/fmow", 8, lambda done: None)
    heads = zero_shot.classifier(model, NAMES, TEMPLATES, 8)
    ranked = np.argsort(-(features(model, [picture(n) for n in range(30)]).numpy() @ heads), axis=1)
    right = ranked[:, 0] == labels
    assert found["acc_worst_region"] == pytest.approx(min(right[regions == r].mean() for r in range(3)))
    assert found["acc_worst_year"] == pytest.approx(min(right[years == y].mean() for y in range(2)))
    assert found["acc_year:1"] == pytest.approx(right[years == 1].mean())
    assert found["acc_avg"] == found["acc1"] == pytest.approx(right.mean())
    found = zero_shot.classify(model, files, "fairness/dollar_street", 8, lambda done: None)
    within = (ranked[:, :5] == labels[:, None]).any(axis=1)
    assert found["acc_top5_wg"] == pytest.approx(min(within[regions == r].mean() for r in range(3)))
    assert "F1-macro_all" in zero_shot.classify(model, files, "wilds/iwildcam", 8, lambda done: None)
    for metadata, told in [
        (lambda n: [0, 0.5], "s00: metadata [0.0, 0.5], but number 2 is to be its slide, a whole number from 0"),
        (lambda n: [0], "s00: metadata [0], but number 2"),
        (lambda n: [0, np.nan], "s00: metadata [0.0, nan], but number 2"),
    ]:
        refill(metadata)
        with pytest.raises(CurateError) as error:
            zero_shot.classify(model, files, "wilds/camelyon17", 8, lambda done: None)
        assert told in str(error.value)


@pytest.mark.parametrize("layer", ["visual.proj", "text_projection"])
def test_a_model_whose_weights_are_no_numbers_has_no_metrics(tmp_path, layer):
    """Compared with NaN nothing is nearer, and what is looked for would be found always."""
    torch = pytest.importorskip("torch")
    weights = tiny_model.write(tmp_path / "tiny") / "checkpoints/epoch_latest.pt"
    saved = torch.load(weights, weights_only=True)
    saved["state_dict"][layer][0] = torch.nan
    torch.save(saved, weights)
    files = written(tmp_path, "own", [Made(picture(n), "png", [f"number {n}"]) for n in range(8)])
    with pytest.raises(CurateError, match="its features have NaN or infinity"):
        zero_shot.retrieve(models.open_model(str(tmp_path / "tiny")), files, 4, lambda done: None)


def test_a_broken_image_is_an_error(model, tmp_path):
    samples = [Made(picture(n) if n != 9 else picture(n)[:200], "png", 0) for n in range(20)]
    files = written(tmp_path, "own", samples, NAMES, TEMPLATES)
    with pytest.raises(CurateError, match=r"test/0\.tar: s0000009: can't be read as an image, but every image"):
        zero_shot.classify(model, files, "own", 4, lambda done: None)
    write_tar(pathlib.Path(files.shards[0]), [])
    with pytest.raises(CurateError, match="has no images"):
        zero_shot.classify(model, files, "own", 4, lambda done: None)
