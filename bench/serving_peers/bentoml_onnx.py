"""BentoML with adaptive batches of up to 16 and ONNX Runtime: `bentoml serve bentoml_onnx:Photos`."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import bentoml
import numpy as np
from PIL.Image import Image as Picture
from PIL.Image import Resampling


@bentoml.service(traffic={"timeout": 60}, logging={"access": {"enabled": False}})
class Photos:
    def __init__(self) -> None:
        import onnxruntime as ort

        folder = Path(os.environ["MODEL_FOLDER"])
        self.names = json.loads((folder / "bundle.json").read_text())["names"]
        self.session = ort.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])

    @bentoml.api(batchable=True, max_batch_size=16)
    def predict(self, photos: list[Picture]) -> list[dict[str, Any]]:
        x = np.stack([np.asarray(p.convert("RGB").resize((224, 224), Resampling.BILINEAR)) for p in photos])
        return [self._answer(p) for p in self.session.run(["y"], {"x": x})[0]]

    def _answer(self, p: np.ndarray[Any, Any]) -> dict[str, Any]:
        best = int(p.argmax())
        return {
            "class": self.names[best],
            "confidence": float(p[best]),
            "probabilities": {n: float(v) for n, v in zip(self.names, p, strict=True)},
        }
