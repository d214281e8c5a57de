"""A training in the manner of timm's own train script, of which the package ships the parts: loader, optimizer,
scheduler, meters, saver. Its transforms, set so that they squash and mirror as the other sides do.

Run by bench/training.py.
"""  # noqa: D205

from __future__ import annotations

import time

import side
import torch
from clock import Clock
from PIL import Image
from timm import create_model, utils
from timm.data import create_dataset, create_loader
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2

LOG_EVERY = 50  # steps, as in the script


def loaders(args, device):
    """Of train, val and test. A random crop of all of the picture in its own aspect is a squash."""
    first = next(p for p in sorted((args.data / "train").rglob("*")) if p.is_file())
    with Image.open(first) as photo:
        aspect = photo.width / photo.height
    names = {name: i for i, name in enumerate(side.classes(args.data))}
    made = {}
    for split in ("train", "val", "test"):
        rows = create_dataset("", root=str(args.data / split), class_map=names, is_training=split == "train")
        made[split] = create_loader(
            rows,
            input_size=(3, args.size, args.size),
            batch_size=args.batch,
            is_training=split == "train",
            scale=(1.0, 1.0),
            ratio=(aspect, aspect),
            hflip=0.5 if args.flip else 0.0,
            color_jitter=None,
            interpolation="bilinear",
            crop_pct=1.0,
            crop_mode="squash",
            num_workers=args.workers,
            device=device,
        )
    return made, len(names)


def train_one_epoch(epoch, model, loader, optimizer, loss_fn, scheduler, clock) -> None:
    losses, update_time, data_time = utils.AverageMeter(), utils.AverageMeter(), utils.AverageMeter()
    model.train()
    clock.epoch()
    before = time.time()
    updates = epoch * len(loader)
    for i, (x, y) in enumerate(loader):
        data_time.update(time.time() - before)
        optimizer.zero_grad()
        loss = loss_fn(model(x), y)
        loss.backward()
        optimizer.step()
        updates += 1
        last = i == len(loader) - 1
        if x.is_cuda and (last or i % LOG_EVERY == 0):
            torch.cuda.synchronize()
        update_time.update(time.time() - before)
        before = time.time()
        if last or i % LOG_EVERY == 0:
            losses.update(loss.item(), x.size(0))
            lr = optimizer.param_groups[0]["lr"]
            print(f"train: {epoch} [{i:>4d}/{len(loader)}] loss {losses.val:.3f} ({losses.avg:.3f}) "
                  f"time {update_time.avg:.3f}s data {data_time.avg:.3f}s lr {lr:.3e}", flush=True)  # fmt: skip
        scheduler.step_update(num_updates=updates, metric=losses.avg)
        clock.step(len(y))


@torch.inference_mode()
def validate(model, loader) -> float:
    """Share of right answers, 0..1."""
    top1 = utils.AverageMeter()
    model.eval()
    for x, y in loader:
        (right,) = utils.accuracy(model(x), y, topk=(1,))
        top1.update(right.item(), x.size(0))
    return top1.avg / 100


def main() -> None:
    args = side.asked(__doc__)
    if args.freeze:
        raise SystemExit("timm's train loop is compared in full training only")
    if args.threads:
        torch.set_num_threads(args.threads)
    utils.random_seed(args.seed, 0)
    device = torch.device(args.device)
    data, classes = loaders(args, device)
    model = create_model(args.backbone, pretrained=False, num_classes=classes).to(device)
    optimizer = create_optimizer_v2(model, opt="adamw", lr=args.lr, weight_decay=args.weight_decay)
    scheduler, epochs = create_scheduler_v2(
        optimizer,
        sched="cosine",
        num_epochs=args.epochs,
        step_on_epochs=False,
        updates_per_epoch=len(data["train"]),
    )
    weights = args.out / "weights"
    weights.mkdir(parents=True)
    saver = utils.CheckpointSaver(model, optimizer, checkpoint_dir=str(weights), recovery_dir=str(weights))
    clock, loss_fn = Clock(), torch.nn.CrossEntropyLoss().to(device)
    clock.start()
    for epoch in range(epochs):
        train_one_epoch(epoch, model, data["train"], optimizer, loss_fn, scheduler, clock)
        saver.save_checkpoint(epoch, metric=validate(model, data["val"]))
        scheduler.step(epoch + 1)
    clock.end()
    best = torch.load(weights / "model_best.pth.tar", map_location=device, weights_only=True)
    model.load_state_dict(best["state_dict"])
    side.answer(args.out, accuracy=validate(model, data["test"]), clock=clock.content())


if __name__ == "__main__":
    main()
