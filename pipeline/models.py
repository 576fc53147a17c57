"""open_clip's models with trained weights: what scores, targets and evaluations encode images and captions with."""

import dataclasses
import difflib
import functools
import hashlib
import io
import json
import os
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from metadata.errors import CurateError, printable, reason, unknown
from pipeline import folder, storage
from pipeline.images import FORMATS

#: A larger image would fill the memory.
MAX_PIXELS = 100_000_000

#: What `curate train` leaves in its folder: the model's config as open_clip reads it, and its newest weights.
CONFIG, WEIGHTS = "model.json", "checkpoints/epoch_latest.pt"

#: Captions are padded to the next multiple of so many tokens.
_TOKENS = 16

#: Bytes that one of CLIP's tokens stands for at most, and the space before it.
_TOKEN_BYTES = 33

#: Words whose tokens are kept, as most are met again: some tens of MB.
_WORDS = 200_000


@dataclasses.dataclass(frozen=True)
class Model:
    """A model on its device, not to be trained.

    Attributes:
        name: among open_clip's configs.
        config: the one of that name: the same weights in other layers give other features.
        weights: a tag of open_clip's, or the sha256 of the file they were read from.
        device: `cpu` or `cuda`.
        network: open_clip's module.
        transform: a PIL image to the tensor that the network takes.
        tokenize: captions to their tokens, cut as the model cuts them.
    """

    name: str
    config: dict[str, Any]
    weights: str
    device: str
    network: Any
    transform: Any
    tokenize: Any

    def prepare(self, data: bytes) -> Any:
        """An image's bytes to the tensor that `encode_images` takes; None for what is no image, or a broken one."""
        try:
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                return self.transform(image.convert("RGB")) if image.width * image.height <= MAX_PIXELS else None
        except Exception:  # Pillow's readers raise a dozen kinds on hostile bytes
            return None

    def encode_images(self, prepared: Sequence[Any]) -> np.ndarray:
        """Features of what `prepare` gave: float32 of shape (images, dims), of unit length."""
        import torch

        with torch.inference_mode():
            made = self.network.encode_image(torch.stack(list(prepared)).to(self.device), normalize=True)
        return made.float().cpu().numpy()

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Features of captions: float32 of shape (texts, dims), of unit length."""
        import torch

        tokens = self.tokenize(list(texts))
        with torch.inference_mode():
            made = _encode_tokens(self.network, tokens.to(self.device))
        return made.float().cpu().numpy()


def _encode_tokens(network: Any, tokens: Any) -> Any:
    """What the network's `encode_text` gives, of unit length, without most of the work on what follows a caption's end.

    open_clip pads captions to 77 tokens, and those of the web have 10 to 20. In a CLIP no token reads a later one, and
    the feature is that of the caption's end, so it is the same whatever follows, but for the order in which sums are
    rounded: captions of about the same length are encoded together, and for them the network has no later positions.
    Other networks get all tokens.
    """
    import open_clip
    import torch

    causal = isinstance(network, open_clip.CLIP) and network.attn_mask is not None
    if not causal or network.text_pool_type != "argmax":
        return network.encode_text(tokens, normalize=True)
    lengths = (tokens.argmax(-1) // _TOKENS + 1) * _TOKENS  # the end is the highest token
    rows = [torch.nonzero(lengths == length).flatten() for length in lengths.unique()]
    made = []
    for some in rows:
        length = int(lengths[some[0]])
        shorter = {"positional_embedding": network.positional_embedding[:length],
                   "attn_mask": network.attn_mask[:length, :length]}  # fmt: skip
        made.append(torch.func.functional_call(network, shorter, (None, tokens[some, :length]))[1])
    return torch.cat(made)[torch.cat(rows).argsort()]


def open_model(model: str, pretrained: str | None = None) -> Model:
    """A model with its weights, on a GPU where there is one.

    Args:
        model: a name of open_clip's, the path of a model's config in JSON, or a folder of `curate train`.
        pretrained: one of its tags, or a checkpoint, of which only weights are read, and no code; a folder has its own.
            Images are prepared as for the tag; for a checkpoint as for the tags of its name, if they all agree.

    Raises:
        CurateError: no such model, tag or file, or it has other weights; the folder's training is unfinished. No model
            has weights that were drawn.
    """
    try:
        import open_clip
        from open_clip import transform
    except ImportError as error:
        raise CurateError(
            f"--model {printable(model)}: the package open_clip_torch is not installed, but it has the models. "
            f"Run: pip install 'clip-curate[train]'"
        ) from error
    own = os.path.isdir(model) or model.endswith(".json")
    if os.path.isdir(model):
        finished = os.path.exists(os.path.join(model, "train.json")) or folder.command_of(model) != "train"
        if not finished and pretrained is None:
            raise CurateError(f"--model {printable(model)}: has no train.json, so its training is unfinished, but a "
                              f"finished one is needed. Run `curate train` again to finish it, or give its checkpoint "
                              f"as --pretrained.")  # fmt: skip
        model, pretrained = os.path.join(model, CONFIG), pretrained or os.path.join(model, WEIGHTS)
    name = _known_name(model)
    tags = open_clip.list_pretrained_tags_by_model(name)
    if pretrained is None or not (os.path.isfile(pretrained) or pretrained in tags):
        known = f", or one of {', '.join(tags)}" if tags else ""
        given = f"--pretrained {printable(pretrained)}: is no file and no tag of {name}" if pretrained else (
            f"--model {printable(model)}: is given without --pretrained"
        )  # fmt: skip
        raise CurateError(f"{given}, but features are of trained weights. Give a checkpoint{known}.")
    config = open_clip.get_model_config(name)
    if not os.path.isfile(pretrained):
        _check_activation(name, config, pretrained)
    preprocessing = _preprocessing(name, tags) if os.path.isfile(pretrained) and not own else {}
    device = "cuda" if on_gpu() else "cpu"
    try:
        network = open_clip.create_model(
            name, pretrained, device=device, force_preprocess_cfg=preprocessing, require_pretrained=True,
            weights_only=True,
        )  # fmt: skip
    except Exception as error:  # open_clip and torch raise a dozen kinds on what is no checkpoint
        if not os.path.isfile(pretrained):
            raise CurateError(
                f"--pretrained {printable(pretrained)}: weights of {name} that are not here whole, and can't be had "
                f"({reason(error)}), but no model works without. Connect this machine to the net, or give a checkpoint."
            ) from error
        raise _unreadable(name, pretrained, tags, error) from error
    if os.path.isfile(pretrained):
        _check_positions(name, network, pretrained)
    network.eval()
    settings = transform.PreprocessCfg(**open_clip.get_model_preprocess_cfg(network))
    weights = storage.sha256(pretrained) if os.path.isfile(pretrained) else pretrained
    prepare = transform.image_transform_v2(settings, is_train=False)
    return Model(name, config, weights, device, network, prepare, open_tokenizer(name))


def open_tokenizer(name: str) -> Any:
    """The model's tokenizer: open_clip's, whose time and memory don't grow with what strangers write.

    CLIP's takes time by the square of a word's length, and keeps every word that it was ever given. Here it reads a
    caption, once it is cleaned, no further than its last token can reach, and keeps the words that were met last.
    """
    import open_clip

    tokenizer = open_clip.get_tokenizer(name)
    if isinstance(tokenizer, open_clip.SimpleTokenizer):
        clean, size = tokenizer.clean_fn, tokenizer.context_length * _TOKEN_BYTES
        if tokenizer.reduction_fn is None:  # which draws tokens from all of a caption
            tokenizer.clean_fn = lambda text: clean(text).encode()[:size].decode(errors="ignore")
        tokenizer.cache = _Unchanging(tokenizer.cache)
        tokenizer.bpe = functools.lru_cache(_WORDS)(tokenizer.bpe)
    return tokenizer


class _Unchanging(dict):
    """A dict to which nothing can be added."""

    def __setitem__(self, key: Any, value: Any) -> None:
        pass


def _unreadable(name: str, checkpoint: str, tags: Sequence[str], error: Exception) -> CurateError:
    """The error for a checkpoint that torch or open_clip can't read into the model, by what they say of it."""
    where, said = f"--pretrained {printable(checkpoint)}", str(error)
    code = re.search(r"\bGLOBAL (\S+)", said)
    if code or "TorchScript archive" in said:
        given = f"has {printable(code[1])} in it" if code else "is a TorchScript archive"
        openai = " OpenAI's own are --pretrained openai." if "openai" in tags else ""
        return CurateError(f"{where}: {given}, but weights alone are read, and no code. Give what torch.save makes of "
                           f"its state_dict().{openai}")  # fmt: skip
    if said.startswith("Error(s) in loading state_dict"):  # the lines that follow have the parts
        parts = " ".join(line.strip() for line in said.splitlines()[1:])
        return CurateError(f"{where}: doesn't fit {name} ({printable(parts, 200)}), but the weights are needed. Give "
                           f"its model.")  # fmt: skip
    return CurateError(f"{where}: can't be read into {name} ({reason(error)}), but the weights are needed. Fetch it "
                       f"again, or give its model.")  # fmt: skip


def _check_activation(name: str, config: dict[str, Any], tag: str) -> None:
    """Raises CurateError where the tag's weights are of QuickGELU, as OpenAI's are, and the config is not.

    open_clip warns and goes on, and the features are others then.
    """
    import open_clip

    other = f"{name}-quickgelu"
    of_weights, of_config = (of.get("quick_gelu") for of in (open_clip.get_pretrained_cfg(name, tag), config))
    if of_weights and not of_config and other in open_clip.list_models():
        raise CurateError(f"--pretrained {tag}: its weights are of QuickGELU, but --model {name} computes with GELU, "
                          f"which gives other features. Give --model {other}.")  # fmt: skip


def _check_positions(name: str, network: Any, checkpoint: str) -> None:
    """Raises CurateError where a checkpoint is of images or captions of another size than the model's.

    open_clip stretches what it has learned of their places, and the features are others then.
    """
    from open_clip.factory import load_state_dict

    if checkpoint.endswith((".npz", ".npy")):  # whose positions must fit
        return
    own = network.state_dict()
    for part, values in load_state_dict(checkpoint).items():
        fitted = own.get(part, own.get(f"text.{part}"))
        if part.endswith("positional_embedding") and fitted is not None and len(fitted) != len(values):
            raise CurateError(f"--pretrained {printable(checkpoint)}: its {part} has {len(values)} places, but that of "
                              f"{name} has {len(fitted)}: it is of images or captions of another size. Give its model."
                              )  # fmt: skip


def _preprocessing(name: str, tags: Sequence[str]) -> dict[str, Any]:
    """How images are prepared for all weights of that name: with a checkpoint open_clip doesn't look, and takes CLIP's.

    Those of MobileCLIP and SigLIP, for two, are others. Empty where the tags differ, or there are none.
    """
    import open_clip

    of_tags = [open_clip.get_pretrained_cfg(name, tag) for tag in tags]
    kinds = [{key: of[key] for key in ("mean", "std", "interpolation", "resize_mode") if key in of} for of in of_tags]
    return kinds[0] if kinds and all(kind == kinds[0] for kind in kinds) else {}


def config_sha256(config: dict[str, Any]) -> str:
    """By which results say what layers the weights were in, wherever the config's file lies and however it is set."""
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()


def on_gpu() -> bool:
    """Whether models are opened on a GPU."""
    try:
        import torch
    except ImportError:
        return False
    return torch.cuda.is_available()


def unknown_name(model: str, names: Sequence[str]) -> CurateError:
    """The error for a name that is none of open_clip's, of which there are more than anyone reads."""
    near = difflib.get_close_matches(model, names, n=5, cutoff=0)
    return unknown("model", model, [*near, f"and {len(names) - len(near)} more of open_clip's"], where="--model")


def _known_name(model: str) -> str:
    """The model's name among open_clip's configs, to which a config file is added."""
    import open_clip

    if not model.endswith(".json"):
        if "/" in model:
            raise CurateError(f"--model {printable(model)}: is no folder and no .json file, but a path with a model is "
                              f"needed. Give a folder of `curate train`, a model's config, or a name of open_clip's."
                              )  # fmt: skip
        if model not in open_clip.list_models():  # local-dir:… and hf-hub:… ignore --pretrained
            raise unknown_name(model, open_clip.list_models())
        return model
    if not os.path.isfile(model):
        raise CurateError(f"--model {printable(model)}: is no file, but a model's config is needed. Give its path, a "
                          f"name of open_clip's, or a folder of `curate train`.")  # fmt: skip
    name = os.path.basename(model).removesuffix(".json")
    try:
        open_clip.add_model_config(model)  # the newest of a name holds
    except (ValueError, RecursionError) as error:
        raise CurateError(f"--model {printable(model)}: is no JSON ({reason(error)}), but a model's config is needed. "
                          f"Look at it.") from error  # fmt: skip
    if name not in open_clip.list_models():
        raise CurateError(f"--model {printable(model)}: lacks one of embed_dim, vision_cfg and text_cfg, but a model "
                          f"has all three. Look at it.")  # fmt: skip
    return name
