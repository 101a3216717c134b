"""Train a classifier of images from folders laid out as ImageNet is.

``DATA/train/CLASS/*`` and ``DATA/val/CLASS/*``; batch norm is over the global
batch, as on one device::

    torchrun --standalone --nproc-per-node 8 examples/imagenet.py DATA \\
        --model resnet50 --batch 1024 --epochs 90
    torchrun --standalone --nproc-per-node 2 examples/imagenet.py pictures \\
        --make --model resnet18 --size 32 --batch 16 --epochs 2

``--make`` writes a small set of that layout first, of noisy stripes.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

import scaletorch
from scaletorch import data, dist, models
from scaletorch.trainer import parse_recipe


def make(folder: Path, size: int, classes: int = 4) -> None:
    """Write a small set of images."""
    draw = np.random.default_rng(0)
    rows, columns = np.mgrid[:size, :size]
    for part, count in (("train", 16), ("val", 4)):
        for number in range(classes):
            place = folder / part / f"stripes{number}"
            place.mkdir(parents=True, exist_ok=True)
            wave = np.sin((rows if number % 2 else columns) * 0.8)
            for i in range(count):
                image = np.stack([wave * (c == number // 2) for c in range(3)])
                image = 127 + 80 * image + 20 * draw.standard_normal(
                    image.shape)
                np.save(place / f"{i:04}.npy",
                        image.clip(0, 255).astype(np.uint8))


def loader(args: argparse.Namespace, part: str) -> data.Loader:
    train = part == "train"
    return data.build({
        "kind": "images",
        "path": str(Path(args.data) / part),
        "size": args.size,
        "augment": train,
        "shuffle": train,
        "drop_last": train,
        "batch_size": args.batch,
        "workers": args.workers
    })


@torch.no_grad()
def accuracy(model: scaletorch.ParallelModule, batches: data.Loader) -> float:
    """Of the first guess, over a whole epoch."""
    model.eval()
    right = total = 0
    for batch in batches:
        found = model(images=batch["images"]).logits.argmax(-1).cpu()
        right += int((found == batch["labels"]).sum())
        total += len(found)
    model.train()
    return right / total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", help="folder with train/ and val/")
    parser.add_argument("--make", action="store_true")
    parser.add_argument("--model", default="resnet50")
    parser.add_argument("--overrides",
                        nargs="*",
                        default=[],
                        help="numbers of its config, such as depth=2")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--epochs", type=int, default=90)
    parser.add_argument("--lr", type=float, default=0.05)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--recipe", help="instead of the planner's choice")
    args = parser.parse_args()
    process = dist.init()
    if args.make and process.is_main:
        make(Path(args.data), args.size)
    dist.barrier()
    train, validate = loader(args, "train"), loader(args, "val")
    torch.manual_seed(0)
    classes = len([p for p in Path(args.data, "train").iterdir()])
    pairs = [text.split("=") for text in args.overrides]
    overrides = {name: int(value) for name, value in pairs}
    model = scaletorch.auto_parallelize(
        models.build(args.model, image=args.size, classes=classes,
                     **overrides),
        process.world_size,
        example_inputs=train.example(),
        plan=parse_recipe(args.recipe) if args.recipe else None)
    optimizer = torch.optim.SGD(model.parameters(), lr=args.lr, momentum=0.9)
    for epoch in range(args.epochs):
        losses = []
        for batch in train:
            loss = model(**batch).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.detach())
        mean = torch.stack(losses).mean().item()
        found = accuracy(model, validate)
        if process.is_main:
            print(f"epoch {epoch:3}  loss {mean:.4f}  right {found:.1%}")
    dist.shutdown()


if __name__ == "__main__":
    main()
