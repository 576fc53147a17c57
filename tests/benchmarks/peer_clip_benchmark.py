"""Zero-shot classification as clip-benchmark and DataComp do it, restated: what `curate evaluate` is measured against.

    python peer_clip_benchmark.py MODEL_FOLDER SETS_FOLDER TASK …

webdataset decodes in up to four worker processes of a DataLoader, each of which needs a shard; batches are of 64,
captions are encoded class by class, all logits are kept. Prints the metrics by task as JSON.
"""

import json
import os
import sys

import open_clip
import torch
import webdataset as wds


def main(model_folder: str, sets: str, *tasks: str) -> None:
    open_clip.add_model_config(os.path.join(model_folder, "model.json"))
    weights = os.path.join(model_folder, "checkpoints/epoch_latest.pt")
    found = {}
    for task in tasks:
        # As DataComp does, the model is made for every task.
        model, _, transform = open_clip.create_model_and_transforms("model", pretrained=weights, weights_only=True)
        found[task] = evaluate(model.eval(), transform, os.path.join(sets, f"wds_{task.replace('/', '-')}_test"))
    print(json.dumps(found))


def evaluate(model, transform, folder: str) -> dict[str, float]:
    tokenize = open_clip.get_tokenizer("model")
    with open(os.path.join(folder, "test/nshards.txt")) as file:
        shards = int(file.read())
    classes, templates = (
        [line.strip() for line in open(os.path.join(folder, name))]  # noqa: SIM115
        for name in ("classnames.txt", "zeroshot_classification_templates.txt")
    )
    urls = [os.path.join(folder, f"test/{n}.tar") for n in range(shards)]
    data = wds.WebDataset(urls, nodesplitter=lambda source: source, shardshuffle=False)
    data = data.decode(wds.autodecode.ImageHandler("pil", extensions=["webp", "png", "jpg", "jpeg"]))
    data = data.to_tuple(["webp", "png", "jpg", "jpeg"], "cls").map_tuple(transform, None)
    loader = torch.utils.data.DataLoader(data.batched(64), batch_size=None, shuffle=False, num_workers=min(4, shards))
    heads, logits, target = [], [], []
    with torch.no_grad():
        for name in classes:
            features = model.encode_text(tokenize([template.format(c=name) for template in templates]))
            mean = torch.nn.functional.normalize(features, dim=-1).mean(dim=0)
            heads.append(mean / mean.norm())
        weights = torch.stack(heads, dim=1)
        for images, labels in loader:
            features = torch.nn.functional.normalize(model.encode_image(images), dim=-1)
            logits.append((100.0 * features @ weights).float())
            target.append(torch.as_tensor(labels))
    truth = torch.cat(target)
    hits = torch.cat(logits).topk(5, 1)[1] == truth[:, None]
    recalls = [hits[truth == c, 0].double().mean().item() for c in truth.unique()]
    return {
        "acc1": hits[:, 0].double().mean().item(),
        "acc5": hits.any(1).double().mean().item(),
        "mean_per_class_recall": sum(recalls) / len(recalls),
    }


if __name__ == "__main__":
    main(*sys.argv[1:])
