"""A training in the manner of a plain Lightning template: torchvision's ImageFolder, a timm backbone, AdamW.

Lightning's own defaults with its CSV logger, progress bar and checkpoints. Run by bench/training.py.
"""

from __future__ import annotations

import json
import math
import os

import clock
import pytorch_lightning as pl
import side
import timm
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger
from torch.utils.data import DataLoader
from torchmetrics import MaxMetric, MeanMetric
from torchmetrics.classification import MulticlassAccuracy
from torchvision import transforms
from torchvision.datasets import ImageFolder

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Photos(pl.LightningDataModule):
    def __init__(self, args) -> None:
        super().__init__()
        self.args = args

    def setup(self, stage=None) -> None:  # noqa: ARG002 - Lightning names it
        a = self.args
        base = [transforms.Resize((a.size, a.size)), transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
        changed = [transforms.RandomHorizontalFlip()] if a.flip else []
        self.train = ImageFolder(a.data / "train", transforms.Compose([*changed, *base]))
        self.val = ImageFolder(a.data / "val", transforms.Compose(base))
        self.test = ImageFolder(a.data / "test", transforms.Compose(base))

    def loader(self, rows, *, shuffle: bool) -> DataLoader:
        return DataLoader(rows, batch_size=self.args.batch, shuffle=shuffle, num_workers=self.args.workers)

    def train_dataloader(self) -> DataLoader:
        return self.loader(self.train, shuffle=True)

    def val_dataloader(self) -> DataLoader:
        return self.loader(self.val, shuffle=False)

    def test_dataloader(self) -> DataLoader:
        return self.loader(self.test, shuffle=False)


class Classifier(pl.LightningModule):
    def __init__(self, args, classes: int, total_steps: int) -> None:
        super().__init__()
        self.args, self.total_steps = args, total_steps
        given = {"file": args.weights, "hf_hub_id": None, "url": ""} if args.weights else None
        self.net = timm.create_model(
            args.backbone, pretrained=bool(given), pretrained_cfg_overlay=given, num_classes=classes
        )
        if args.zero_head:
            for p in self.net.get_classifier().parameters():
                torch.nn.init.zeros_(p)
        if args.freeze:
            self.net.requires_grad_(False)
            self.net.get_classifier().requires_grad_(True)
        self.criterion = torch.nn.CrossEntropyLoss()
        self.train_acc, self.val_acc, self.test_acc = (MulticlassAccuracy(classes, average="micro") for _ in range(3))
        self.train_loss, self.val_loss, self.val_best = MeanMetric(), MeanMetric(), MaxMetric()

    def train(self, mode: bool = True):
        super().train(mode)
        if self.args.freeze:
            self.net.eval()
        return self

    def forward(self, x):
        return self.net(x)

    def model_step(self, batch):
        x, y = batch
        logits = self(x)
        return self.criterion(logits, y), logits.argmax(1), y

    def training_step(self, batch, _):
        loss, preds, y = self.model_step(batch)
        self.train_loss(loss)
        self.train_acc(preds, y)
        self.log("train/loss", self.train_loss, on_step=False, on_epoch=True, prog_bar=True)
        self.log("train/acc", self.train_acc, on_step=False, on_epoch=True, prog_bar=True)
        return loss

    def validation_step(self, batch, _) -> None:
        loss, preds, y = self.model_step(batch)
        self.val_loss(loss)
        self.val_acc(preds, y)
        self.log("val/loss", self.val_loss, on_step=False, on_epoch=True, prog_bar=True)
        self.log("val/acc", self.val_acc, on_step=False, on_epoch=True, prog_bar=True)

    def on_validation_epoch_end(self) -> None:
        self.val_best(self.val_acc.compute())
        self.log("val/acc_best", self.val_best.compute(), sync_dist=True, prog_bar=True)

    def test_step(self, batch, index) -> None:  # noqa: ARG002 - Lightning names it
        _, preds, y = self.model_step(batch)
        self.test_acc(preds, y)
        self.log("test/acc", self.test_acc, on_step=False, on_epoch=True)

    def configure_optimizers(self):
        learned = [p for p in self.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(learned, lr=self.args.lr, weight_decay=self.args.weight_decay)
        warmup = max(1, round(0.1 * self.total_steps))

        def factor(step: int) -> float:
            done = (step - warmup) / max(1, self.total_steps - warmup)
            return (step + 1) / warmup if step < warmup else 0.5 * (1 + math.cos(math.pi * min(1.0, done)))

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def main() -> None:
    args = side.asked(__doc__)
    os.environ[clock.FILE] = str(args.out / "clock.json")
    if args.threads:
        torch.set_num_threads(args.threads)
    pl.seed_everything(args.seed, workers=True)
    photos = Photos(args)
    photos.setup()
    steps = args.epochs * math.ceil(len(photos.train) / args.batch)
    trainer = pl.Trainer(
        accelerator=args.device,
        devices=1,
        max_epochs=args.epochs,
        gradient_clip_val=args.clip or None,
        logger=CSVLogger(args.out),
        callbacks=[ModelCheckpoint(args.out / "weights", monitor="val/loss", save_last=True), *clock.callbacks()],
        default_root_dir=args.out,
    )
    trainer.fit(Classifier(args, len(photos.train.classes), steps), datamodule=photos)
    tested = trainer.test(ckpt_path="best", datamodule=photos, verbose=False)
    times = json.loads((args.out / "clock.json").read_text(encoding="utf-8"))
    side.answer(args.out, accuracy=tested[0]["test/acc"], clock=times)


if __name__ == "__main__":
    main()
