"""The models that are served now, each under its name."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from proj.errors import Busy

if TYPE_CHECKING:
    from proj.bundle import Manifest
    from proj.infer import Model
    from proj.serve.settings import Settings


@dataclass(eq=False)
class Slot:
    """One name and the model that answers under it.

    `model` is replaced by one assignment, so that whoever reads it once has one model, whole. It is None until the
    first one has warmed up; `manifest` is known before.
    """

    name: str
    manifest: Manifest
    model: Model | None = None
    waiting: dict[int, Model] = field(default_factory=dict)  # loaded and proved, not yet switched to

    def take(self) -> Model:
        """The model of this moment. Raises Busy while there is none."""
        model = self.model
        if model is None:
            raise Busy("the model is being loaded", next="try again")
        return model

    def switch(self, model: Model) -> None:
        """Answer with `model` from the next input on."""
        self.manifest = model.manifest
        self.model = model


Slots = dict[str, Slot]


def told(model: Model, settings: Settings) -> Model:
    """The model with the threshold that the settings ended in: `infer.encode` reads the manifest's."""
    if settings.threshold is None:
        return model
    serve = model.manifest.serve.model_copy(update={"threshold": settings.threshold})
    return replace(model, manifest=model.manifest.model_copy(update={"serve": serve}))
