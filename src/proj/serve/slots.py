"""The models that are served now, each under its name."""

from __future__ import annotations

import threading
from array import array
from dataclasses import replace
from typing import TYPE_CHECKING

from proj.errors import Busy
from proj.serve import board

if TYPE_CHECKING:
    from pathlib import Path

    from proj.bundle import Manifest
    from proj.infer import Model
    from proj.serve.settings import Settings

FIRST = 1  # the number of the version that a server starts with
IDS = "versions"  # the file that all workers map


class Slot:
    """One name and the model that answers under it. `model` is None until the first one has warmed up.

    Which version that is stands in memory that all workers share (`ids`, at `place`): the supervisor writes it once
    every worker has the next one in `waiting`, and from then on none answers with the old one. Whoever reads `model`
    once has one model, whole. For several threads.
    """

    __slots__ = ("_id", "_ids", "_lock", "_manifest", "_model", "_place", "name", "waiting")

    def __init__(
        self, name: str, manifest: Manifest, model: Model | None = None, ids: memoryview[float] | None = None,
        place: int = 0,
    ) -> None:  # fmt: skip
        self.name, self._manifest, self._model = name, manifest, model
        self._ids, self._place = memoryview(array("d", [FIRST])) if ids is None else ids, place
        self._id = self._ids[self._place]
        self._lock = threading.Lock()
        self.waiting: dict[int, Model] = {}  # loaded and proved, not yet switched to

    @property
    def model(self) -> Model | None:
        """The model of this moment."""
        if self._ids[self._place] != self._id:
            self._follow()
        return self._model

    @property
    def manifest(self) -> Manifest:
        """That of the model; known before there is one."""
        if self._ids[self._place] != self._id:
            self._follow()
        return self._manifest

    def take(self) -> Model:
        """The model of this moment. Raises Busy while there is none."""
        model = self.model
        if model is None:
            raise Busy("the model is being loaded", next="try again")
        return model

    def switch(self, model: Model) -> None:
        """Answer with `model` from the next input on."""
        self._manifest = model.manifest
        self._model = model

    def _follow(self) -> None:
        with self._lock:
            id = self._ids[self._place]
            model = self.waiting.pop(int(id), None)
            if model is not None:
                self.switch(model)
                self._id = id


def create(folder: Path, names: int) -> memoryview[float]:
    """The numbers of the versions that are served, in the order of their names, for all processes that map them."""
    (folder / IDS).write_bytes(array("d", [FIRST] * names).tobytes())
    return board.mapped(folder / IDS)


Slots = dict[str, Slot]


def told(model: Model, settings: Settings) -> Model:
    """The model with the threshold that the settings ended in: `infer.encode` reads the manifest's."""
    if settings.threshold is None:
        return model
    serve = model.manifest.serve.model_copy(update={"threshold": settings.threshold})
    return replace(model, manifest=model.manifest.model_copy(update={"serve": serve}))
