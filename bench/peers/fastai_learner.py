"""A training in fastai's own way: ImageDataLoaders.from_folder and Learner.fit, with a timm backbone.

Run by bench/training.py.
"""

from __future__ import annotations

from functools import partial

import side
import timm
import torch
from clock import Clock
from fastai.callback.core import Callback
from fastai.callback.progress import CSVLogger
from fastai.callback.tracker import SaveModelCallback
from fastai.data.transforms import Normalize, get_image_files
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from fastai.metrics import accuracy
from fastai.optimizer import Adam
from fastai.torch_core import set_seed
from fastai.vision.augment import FlipItem, Resize, ResizeMethod
from fastai.vision.core import imagenet_stats
from fastai.vision.data import ImageDataLoaders


class Times(Callback):
    order = 100  # after all others

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def before_fit(self) -> None:
        self.clock.start()

    def before_train(self) -> None:
        self.clock.epoch()

    def after_batch(self) -> None:
        if not self.training:
            return
        if self.iter == self.n_iter - 1 and torch.cuda.is_available():
            torch.cuda.synchronize()
        self.clock.step(len(self.y))

    def after_fit(self) -> None:
        self.clock.end()


def main() -> None:
    args = side.asked(__doc__)
    if args.freeze:
        raise SystemExit("fastai is compared in full training only")
    if args.threads:
        torch.set_num_threads(args.threads)
    set_seed(args.seed)
    items = [Resize((args.size, args.size), method=ResizeMethod.Squish), *([FlipItem(0.5)] if args.flip else [])]
    dls = ImageDataLoaders.from_folder(
        args.data,
        train="train",
        valid="val",
        item_tfms=items,
        batch_tfms=[Normalize.from_stats(*imagenet_stats, cuda=args.device == "cuda")],
        bs=args.batch,
        num_workers=args.workers,
        device=torch.device(args.device),
    )
    clock = Clock()
    learner = Learner(
        dls,
        timm.create_model(args.backbone, pretrained=False, num_classes=dls.c),
        loss_func=CrossEntropyLossFlat(),
        opt_func=partial(Adam, decouple_wd=True),
        metrics=accuracy,
        path=args.out,
        model_dir="weights",
        cbs=[SaveModelCallback(), CSVLogger()],
    )
    with learner.no_bar(), learner.added_cbs([Times(clock)]):
        learner.fit(args.epochs, lr=args.lr, wd=args.weight_decay)
    learner.save("final")
    test = dls.test_dl(get_image_files(args.data / "test"), with_labels=True)
    _, share = learner.validate(dl=test)
    side.answer(args.out, accuracy=float(share), clock=clock.content())


if __name__ == "__main__":
    main()
