"""Features are open_clip's own, with less work where that makes no difference."""

import json
import random

import pytest
import tiny_model

pytestmark = pytest.mark.slow

#: Of 2 to 32 tokens, which is all that there are, and one of just 16; the first and the last are alike.
CAPTIONS = ["a cat", "", "one word " * 8, "many words " * 90, "🐈 " * 7, "a cat"]


@pytest.fixture(scope="module", params=["causal", "bidirectional", "custom"])
def network(request, tmp_path_factory):
    """A network of each kind, and whether its features are those of a caption's end, which reads nothing later."""
    open_clip, torch = pytest.importorskip("open_clip"), pytest.importorskip("torch")
    config = tiny_model.CONFIG | {"custom_text": request.param == "custom"}
    config["text_cfg"] = config["text_cfg"] | {"no_causal_mask": request.param == "bidirectional"}
    path = tmp_path_factory.mktemp("model") / f"tiny-{request.param}.json"
    path.write_text(json.dumps(config))
    open_clip.add_model_config(path)
    torch.manual_seed(0)
    return open_clip.create_model(path.stem).eval(), request.param == "causal"


def test_captions_are_encoded_as_open_clip_does_without_what_follows_their_end(network):
    import open_clip
    import torch

    from pipeline.models import Model

    network, shortened = network
    model = Model("tiny", {}, "drawn", "cpu", network, None, open_clip.get_tokenizer("tiny-causal"))
    embedding = network.token_embedding if hasattr(network, "token_embedding") else network.text.token_embedding
    tokens = model.tokenize(CAPTIONS)
    with torch.inference_mode():
        wanted = network.encode_text(tokens, normalize=True).numpy()
    assert not any((wanted[0] == other).all() for other in wanted[1:5])
    read: list[tuple[int, int]] = []
    hook = embedding.register_forward_hook(lambda _module, given, _made: read.append(tuple(given[0].shape)))
    found = model.encode_texts(CAPTIONS)
    hook.remove()
    assert found == pytest.approx(wanted, abs=5e-7)
    assert read == ([(4, 16), (2, 32)] if shortened else [(6, 32)])
    assert network.encode_text(tokens).shape == wanted.shape  # it is whole again


def made_up(rng: random.Random, alphabet: str, size: int) -> str:
    return "".join(rng.choice(alphabet) for _ in range(size))


@pytest.fixture
def tokenizers(tmp_path):
    """tokenizers(**text_cfg) -> ours and open_clip's of a model with it."""
    open_clip = pytest.importorskip("open_clip")
    from pipeline.models import open_tokenizer

    def both(**text_cfg):
        config = tiny_model.CONFIG | {"text_cfg": tiny_model.CONFIG["text_cfg"] | text_cfg}
        (tmp_path / "tiny-tokens.json").write_text(json.dumps(config))
        open_clip.add_model_config(tmp_path / "tiny-tokens.json")
        return open_tokenizer("tiny-tokens"), open_clip.get_tokenizer("tiny-tokens")

    return both


@pytest.mark.parametrize("length", [16, 77])
@pytest.mark.parametrize("clean", ["lower", "canonicalize"])
def test_tokens_are_open_clips(tokenizers, length, clean):
    ours, plain = tokenizers(context_length=length, tokenizer_kwargs={"clean": clean})
    words = [token for token in plain.encoder if token not in plain.cache and not token.endswith("</w>")]
    longest = sorted(words, key=len, reverse=True)[:40]
    rng = random.Random(0)
    alphabets = ["ab", "abcdefghijklmnopqrstuvwxyz", "ao 😂", "日本語犬", "eeeeeeeee "]
    texts = [
        *CAPTIONS, " " * 100_000 + "a\n\t cat" + "\u3000" * 9_000 + "sat", "\ud83d a cat", "İ" * 3_000, "=" * 6_000,
        "&amp;amp;" * 2_000 + " a cat", "&#0000065;" * 999, "sÃ¶ schÃ¶n " * 300, "<b>&eacute;</b> " * 300,
        "Das Grundstücksverkehrsgenehmigungszuständigkeit " * 90, "犬が公園で走っています。" * 400, "it's " * 900,
        "blackandwhitephotography " * 200, "<start_of_text>" * 400, "1234567890" * 500, "a" * 5_000,
        *(bytes(plain.byte_decoder[c] for c in token).decode(errors="ignore") * 200 for token in longest),
        *(made_up(rng, alphabet, size) for alphabet in alphabets for size in (2_500, 2_600, 3_000)),
    ]  # fmt: skip
    assert len(longest[0]) == 32
    assert ours(texts).tolist() == plain(texts).tolist()


def test_a_long_word_reaches_the_tokenizer_in_part_and_words_are_forgotten(tokenizers, monkeypatch):
    from pipeline import models

    monkeypatch.setattr(models, "_WORDS", 1_000)
    ours, _ = tokenizers(context_length=77)
    rng = random.Random(0)
    word = made_up(rng, "abcdefghijklmnopqrstuvwxyz", 100_000)
    assert word.startswith(ours.clean_fn(word))
    assert len(ours.clean_fn(f"{word} {word}")) == len(ours.clean_fn("犬" * 100_000).encode()) == 77 * 33
    assert (ours([word])[0] > 0).all()
    kept = len(ours.cache)
    ours([made_up(rng, "abcdefghijklmnopqrstuvwxyz", 8) for _ in range(3_000)])
    assert len(ours.cache) == kept
    assert ours.bpe.cache_info().currsize == 1_000
    assert "<start_of_text>" in ours.cache


def test_a_model_is_opened_with_that_tokenizer(tmp_path):
    pytest.importorskip("open_clip")
    from pipeline.models import open_model

    model = open_model(str(tiny_model.write(tmp_path / "model")))
    assert len(model.tokenize.clean_fn("a" * 100_000)) == 32 * 33


def test_weights_of_another_activation_are_refused_before_they_are_fetched():
    pytest.importorskip("open_clip")
    from metadata.errors import CurateError
    from pipeline.models import open_model

    with pytest.raises(CurateError, match=r"--pretrained openai: .* Give --model ViT-L-14-quickgelu\."):
        open_model("ViT-L-14", "openai")


@pytest.mark.parametrize(("model", "sentence"), [
    ("runs/nope", "--model runs/nope: is no folder and no .json file, but a path with a model is needed. Give a folder "
     "of `curate train`, a model's config, or a name of open_clip's."),
    ("ViT-B-33", r"--model: unknown model 'ViT-B-33'. Did you mean 'ViT-B-32'\? Known: ViT-B-32, (\S+, ){4}and \d+ "
     "more of open_clip's."),
    ("?", r"--model: unknown model '\?'. Known: (\S+, ){5}and \d+ more of open_clip's."),
])  # fmt: skip
def test_a_model_that_is_not_there(model, sentence):
    pytest.importorskip("open_clip")
    from metadata.errors import CurateError
    from pipeline.models import open_model

    with pytest.raises(CurateError, match=f"^{sentence}$"):
        open_model(model, None)


def test_a_damaged_config_is_an_error(tmp_path, monkeypatch):
    open_clip = pytest.importorskip("open_clip")
    from metadata.errors import CurateError
    from pipeline.models import open_model

    monkeypatch.setattr(open_clip.factory, "_MODEL_CONFIG_PATHS", [*open_clip.factory._MODEL_CONFIG_PATHS])
    (tmp_path / "deep.json").write_text("[" * 100_000)
    with pytest.raises(CurateError, match="is no JSON"):
        open_model(str(tmp_path / "deep.json"))


def test_the_folder_of_an_unfinished_training_is_refused_without_its_checkpoint_by_name(tmp_path):
    pytest.importorskip("open_clip")
    from metadata.errors import CurateError
    from pipeline.models import open_model

    folder = tiny_model.write(tmp_path / "model")
    weights = open_model(str(folder)).weights  # one made by hand, without run.json
    (folder / "run.json").write_text('{"command": "train"}')
    with pytest.raises(CurateError, match=r"model: has no train\.json, so its training is unfinished, .* as --pretr"):
        open_model(str(folder))
    assert open_model(str(folder), str(folder / "checkpoints/epoch_latest.pt")).weights == weights
    (folder / "train.json").write_text("{}")
    assert open_model(str(folder)).weights == weights


@pytest.mark.parametrize(("interpolations", "mean"), [
    (["bilinear", "bilinear"], 0.5),
    (["bilinear", "bicubic"], 0.4815),
])  # fmt: skip
def test_images_are_prepared_for_a_checkpoint_as_for_published_weights(tmp_path, interpolations, mean):
    open_clip = pytest.importorskip("open_clip")
    from pipeline.models import open_model

    folder = tiny_model.write(tmp_path / "model")
    (tmp_path / "tiny-published.json").write_text(json.dumps(tiny_model.CONFIG))
    open_clip.add_model_config(tmp_path / "tiny-published.json")
    open_clip.pretrained._PRETRAINED["tiny-published"] = {
        str(n): {"mean": (0.5,) * 3, "std": (0.5,) * 3, "interpolation": kind} for n, kind in enumerate(interpolations)
    }
    weights = str(folder / "checkpoints/epoch_latest.pt")
    by_name = open_model("tiny-published", weights).transform.transforms[-1]
    assert by_name.mean[0] == pytest.approx(mean, abs=1e-4)
    for model in (str(folder), str(tmp_path / "tiny-published.json")):  # a user's own, as the trainer prepares for it
        assert open_model(model, weights).transform.transforms[-1].mean[0] == pytest.approx(0.4815, abs=1e-4)


@pytest.mark.parametrize(("tower", "change", "part"), [
    ("vision_cfg", {"width": 64}, r"size mismatch for visual\.class_embedding: .* shape torch\.Size\(\[32\]\) from"),
    ("text_cfg", {"layers": 2}, r'Missing key\(s\) in state_dict: "transformer\.resblocks\.1\.ln_1\.weight", '),
])  # fmt: skip
def test_of_a_checkpoint_that_doesnt_fit_it_is_said_which_part(tmp_path, tower, change, part):
    pytest.importorskip("open_clip")
    from metadata.errors import CurateError
    from pipeline.models import open_model

    weights = str(tiny_model.write(tmp_path / "model") / "checkpoints/epoch_latest.pt")
    other = tiny_model.CONFIG | {tower: tiny_model.CONFIG[tower] | change}
    (tmp_path / "other.json").write_text(json.dumps(other))
    with pytest.raises(CurateError, match=rf": doesn't fit other \({part}.*\), but .* Give its model\.$"):
        open_model(str(tmp_path / "other.json"), weights)


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_what_has_code_in_it_is_told_how_to_become_weights(tmp_path, monkeypatch):
    open_clip = pytest.importorskip("open_clip")
    import torch

    from metadata.errors import CurateError
    from pipeline.models import open_model

    (tmp_path / "tiny-code.json").write_text(json.dumps(tiny_model.CONFIG))
    module, path = torch.nn.Linear(2, 2), str(tmp_path / "x.pt")
    torch.save(module, path)
    with pytest.raises(CurateError, match=r"has torch\.nn\.modules\.linear\.Linear in it, .* its state_dict\(\)\.$"):
        open_model(str(tmp_path / "tiny-code.json"), path)
    torch.jit.save(torch.jit.trace(module, torch.zeros(2)), path)
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "tiny-code", {"openai": {}})
    with pytest.raises(CurateError, match=r"is a TorchScript archive, but .* own are --pretrained openai\.$"):
        open_model(str(tmp_path / "tiny-code.json"), path)


@pytest.mark.parametrize(("tower", "size", "part"), [
    ("vision_cfg", {"image_size": 64}, r"visual\.positional_embedding has 17 places, but that of other has 65"),
    ("text_cfg", {"context_length": 16}, r"positional_embedding has 32 places, but that of other has 16"),
])  # fmt: skip
@pytest.mark.parametrize("custom", [False, True])
def test_a_checkpoint_of_another_size_is_refused(tmp_path, tower, size, part, custom):
    pytest.importorskip("open_clip")
    from metadata.errors import CurateError
    from pipeline.models import open_model

    weights = str(tiny_model.write(tmp_path / "model") / "checkpoints/epoch_latest.pt")
    other = tiny_model.CONFIG | {tower: tiny_model.CONFIG[tower] | size, "custom_text": custom}
    (tmp_path / "other.json").write_text(json.dumps(other))
    with pytest.raises(CurateError, match=part):
        open_model(str(tmp_path / "other.json"), weights)
