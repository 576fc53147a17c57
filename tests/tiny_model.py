"""A model small enough for a few images on a CPU, in a folder as `curate train` leaves one."""

import json
import pathlib

CONFIG = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "patch_size": 8, "head_width": 16},
    "text_cfg": {"context_length": 32, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}

#: Coarser still: a tower small enough for a few steps on a CPU.
TO_TRAIN = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "patch_size": 16, "head_width": 16},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}


def write(folder: pathlib.Path, seed: int = 0) -> pathlib.Path:
    """Its config and weights, drawn with the seed and saved: a user's trained weights, but for the training."""
    import open_clip
    import torch

    (folder / "checkpoints").mkdir(parents=True)
    (folder / "model.json").write_text(json.dumps(CONFIG))
    open_clip.add_model_config(folder / "model.json")
    torch.manual_seed(seed)
    network = open_clip.create_model("model")
    # As they are initialised, all captions look nearly the same to them.
    weights = {name: value * 2 if value.ndim > 1 else value for name, value in network.state_dict().items()}
    torch.save({"state_dict": weights}, folder / "checkpoints/epoch_latest.pt")
    return folder
