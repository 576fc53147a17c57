"""Targets are what a plain loop over open_clip gives; what can't be read is named."""

import io
import json
import os
import pathlib
import signal
import subprocess
import sys
import tarfile
import time

import numpy as np
import pytest
import tiny_model
from PIL import Image

from jobs import cli
from metadata.errors import CurateError
from pipeline import models, targets

ROOT = pathlib.Path(__file__).parents[2]



def picture(seed: int, mode: str = "RGB") -> bytes:
    file = io.BytesIO()
    values = np.random.default_rng(seed).integers(0, 255, (40 + seed, 50, 3), np.uint8)
    Image.fromarray(values).convert(mode).save(file, "png")
    return file.getvalue()


def write_tar(path: pathlib.Path, members: list[tuple[str, bytes]]) -> None:
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))


@pytest.fixture
def images(tmp_path: pathlib.Path) -> pathlib.Path:
    folder = tmp_path / "images"
    for number in (4, 0, 3, 1, 2):
        path = folder / f"class{number % 2}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(number, "L" if number == 3 else "RGB"))
    (folder / "class0/notes.txt").write_text("no image")
    return folder


def names(folder: pathlib.Path) -> list[str]:
    return [str(folder / name) for name in ("class0/0.png", "class0/2.png", "class0/4.png", "class1/1.png",
                                            "class1/3.png")]  # fmt: skip


def test_images_are_found_in_the_order_of_their_names(images, tmp_path):
    assert [name for name, _ in targets.find(str(images))] == names(images)
    (tmp_path / "shards").mkdir()
    shard = tmp_path / "shards/0.tar"
    write_tar(shard, [("b.mask.png", b"no"), ("b.png", picture(1)), ("b.txt", b"x"), ("c.gif", b"no"),
                      ("a.webp", b"no"), ("a.png", picture(2))])  # fmt: skip
    found = list(targets.find(str(tmp_path / "shards")))
    assert found == [(f"{shard}: b.png", picture(1)), (f"{shard}: a.png", picture(2))]


def test_what_ends_as_an_image_and_is_not_taken_is_named(images, tmp_path):
    assert targets.passed_over(str(images)) == {}
    shard, beside = images / "class1/0.tar", names(images)
    write_tar(shard, [("n1_0.v2.JPEG", picture(1)), ("a.png", picture(1)), ("a.mask.png", b"no"), ("a.txt", b"x")])
    members = [f"{shard}: n1_0.v2.jpeg", f"{shard}: a.mask.png"]
    assert targets.passed_over(str(images)) == {"members": members, "beside_tars": beside}
    write_tar(shard, [("n1_0.v2.JPEG", picture(1)), ("c.gif", b"no")])
    with pytest.raises(CurateError) as error:
        targets.make(str(images), "x", "x", str(tmp_path / "t.npy"), 2)
    assert str(error.value) == (
        f"--images {images}: no images there ({shard}: n1_0.v2.jpeg is passed over: a sample's image is the first of "
        f"jpg, png, jpeg, webp, and its ending is all after the first dot of a name) ({beside[0]} is passed "
        f"over: of a folder with tars these alone are read), but targets are made of them. Look at the path."
    )


def test_links_to_folders_are_followed_and_loops_are_not(images, tmp_path):
    (tmp_path / "linked").mkdir()
    for number in range(2):
        (tmp_path / f"linked/class{number}").symlink_to(f"../images/class{number}")
        (images / f"class{number}/up").symlink_to("../../linked")
    found = [name for name, _ in targets.find(str(tmp_path / "linked"))]
    assert found == [name.replace(str(images), str(tmp_path / "linked")) for name in names(images)]


def test_a_folder_that_cant_be_read_is_no_folder_without_images(images, monkeypatch):
    def scandir(place, scandir=os.scandir):
        if str(place).endswith("class1"):
            raise PermissionError(13, "Permission denied", place)
        return scandir(place)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(PermissionError, match="class1"):
        list(targets.find(str(images)))


def test_images_that_were_done_are_not_read(images):
    (images / "class0/0.png").unlink()
    (images / "class0/0.png").symlink_to("nowhere")
    assert [name for name, _ in targets.find(str(images), 1)] == names(images)[1:]
    with pytest.raises(FileNotFoundError):
        list(targets.find(str(images)))


def test_mistakes(images, tmp_path):
    with pytest.raises(CurateError, match=r"^--images none: no images there, but"):
        targets.make("none", "x", "x", str(tmp_path / "t.npy"), 2)
    with pytest.raises(CurateError, match=r"^--out t\.npz: is no path that ends in \.npy"):
        targets.make(str(images), "x", "x", "t.npz", 2)
    (tmp_path / "model.json").write_text('{"embed_dim": 512}')
    with pytest.raises(CurateError, match=r"/model\.json: is none that `curate targets` wrote, but"):
        targets.make(str(images), "x", "x", str(tmp_path / "model.npy"), 2)
    assert (tmp_path / "model.json").read_text() == '{"embed_dim": 512}'


@pytest.fixture
def tiny(tmp_path: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path]:
    """A model's config and weights."""
    open_clip, torch = pytest.importorskip("open_clip"), pytest.importorskip("torch")
    config, weights = tmp_path / "tiny-targets.json", tmp_path / "tiny.pt"
    config.write_text(json.dumps(tiny_model.CONFIG))
    open_clip.add_model_config(config)
    torch.save(open_clip.create_model("tiny-targets").state_dict(), weights)
    return config, weights


@pytest.mark.slow
def test_equal_to_a_plain_loop(images, tiny, tmp_path):
    import open_clip
    import torch

    (config, weights), out = tiny, tmp_path / "t.npy"
    model, _, prepare = open_clip.create_model_and_transforms("tiny-targets", str(weights))
    odd = f"{images}/class1/" + os.fsdecode(b"2\xff.jpg")
    pathlib.Path(odd).write_bytes(picture(7)[:300])
    record = targets.make(str(images), str(config), str(weights), str(out), 2)
    assert record["left_out"] == [odd]
    assert record["images"] == 5
    assert json.loads((tmp_path / "t.json").read_text()) == record
    expected = []
    with torch.inference_mode():
        for path in names(images):
            features = model.eval().encode_image(prepare(Image.open(path).convert("RGB"))[None])[0]
            expected.append((features / features.norm()).numpy())
    found = np.load(out, allow_pickle=False)
    assert found.dtype == np.float32
    assert not (tmp_path / "t.npy.work").exists()
    assert np.abs(found - np.stack(expected)).max() < 1e-5
    for name, tag, told in [
        ("tiny-target", "x", "--model: unknown model 'tiny-target'. Did you mean 'tiny-targets'?"),
        ("local-dir:x", str(weights), "--model: unknown model 'local-dir:x'."),
        (str(config), "openai", "--pretrained openai: is no file and no tag of tiny-targets, but"),
        (str(config), None, f"--model {config}: is given without --pretrained, but"),
        (str(weights) + ".json", str(weights), f"--model {weights}.json: is no file, but"),
        (str(config), str(config), f"--pretrained {config}: can't be read into tiny-targets ("),
    ]:
        with pytest.raises(CurateError) as error:
            targets.make(str(images), name, tag, str(out), 2)
        assert str(error.value).startswith(told)


@pytest.mark.slow
def test_the_command_names_what_it_passes_over(images, tiny, tmp_path, capsys):
    config, weights = map(str, tiny)
    write_tar(images / "0.tar", [("0.v2.png", picture(1)), ("a.png", picture(1))])
    assert cli.main(["targets", "--images", str(images), "--model", config, "--pretrained", weights, "--out",
                     str(tmp_path / "t.npy")]) == 0  # fmt: skip
    said = capsys.readouterr()
    assert f"curate: {images}/0.tar: 0.v2.png and 0 others: left out, for a sample's image is the first " in said.err
    assert f"curate: {images}/class0/0.png and 4 others: left out, for of a folder with tars " in said.err
    assert "\n                          6  that end as images do, but aren't taken; " in said.out
    assert json.loads((tmp_path / "t.json").read_text())["passed_over"]["members"] == [f"{images}/0.tar: 0.v2.png"]


@pytest.mark.slow
def test_a_command_that_was_stopped_while_it_tidied_up(images, tiny, tmp_path, monkeypatch):
    """What is left of its work are not the first batches."""
    config, weights = map(str, tiny)
    made = targets.make(str(images), config, weights, str(tmp_path / "t.npy"), 2)
    whole = (tmp_path / "t.npy").read_bytes()

    def stop(path: str) -> None:
        next(pathlib.Path(path).rglob("0000000000.npz")).unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as stopped:
        stopped.setattr("pipeline.targets.storage.remove", stop)
        with pytest.raises(KeyboardInterrupt):
            targets.make(str(images), config, weights, str(tmp_path / "t.npy"), 2)
    assert targets.make(str(images), config, weights, str(tmp_path / "t.npy"), 2) == made
    assert (tmp_path / "t.npy").read_bytes() == whole


@pytest.mark.slow
def test_a_changed_config_begins_anew(images, tiny):
    """The same name and weights in other layers: what an unfinished run has is not of this model."""
    config, weights = tiny
    heads = tiny_model.CONFIG["vision_cfg"] | {"head_width": 8}
    made = []
    for text in (tiny_model.CONFIG, tiny_model.CONFIG | {"vision_cfg": heads}):
        config.write_text(json.dumps(text))
        encoder = models.open_model(str(config), str(weights))
        made.append((targets._identity(str(images), encoder, 2), encoder.encode_images([encoder.prepare(picture(1))])))
    assert encoder.name == "tiny-targets"
    (first, features), (second, others) = made
    assert first != second
    assert np.abs(features - others).max() > 1e-4


@pytest.mark.slow
def test_a_killed_command_goes_on_and_gives_the_same_bytes(tiny, tmp_path):
    (config, weights), folder = tiny, tmp_path / "many"
    folder.mkdir()
    for number in range(300):
        (folder / f"{number:03d}.png").write_bytes(picture(number % 50) if number % 60 else b"no image")
    command = [sys.executable, "-m", "jobs.cli", "targets", "--images", "many", "--model", str(config), "--pretrained",
               str(weights), "--batch", "3", "--out"]  # fmt: skip
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    options: dict = {"cwd": tmp_path, "env": environment, "text": True}
    done = subprocess.run([*command, "whole.npy"], capture_output=True, **options)
    assert done.returncode == 0, done.stderr
    assert "encoding: 300 of 300 images (100%), " in done.stderr
    assert "curate: many/000.png: is left out, for it can't be read as an image." in done.stderr
    assert "images                  295  on " in done.stdout
    quiet = {"stderr": subprocess.DEVNULL, "stdout": subprocess.DEVNULL}
    seen = 40
    process = subprocess.Popen([*command, "killed.npy"], **quiet, **options)
    while process.poll() is None and len(list(tmp_path.glob("killed.npy.work/*/[0-9]*.npz"))) < seen:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    for path in sorted(folder.iterdir())[: 3 * seen]:  # were they read again, the features would be others
        stat = path.stat()
        path.write_bytes(bytes(stat.st_size))
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    done = subprocess.run([*command, "killed.npy"], capture_output=True, **options)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "killed.npy").read_bytes() == (tmp_path / "whole.npy").read_bytes()
    whole, killed = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("whole", "killed"))
    assert whole == killed
    assert len(whole["left_out"]) == 5
    assert not (tmp_path / "killed.npy.work").exists()
