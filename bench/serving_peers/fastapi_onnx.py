"""FastAPI + ONNX Runtime + Pillow: a plain `def`, which FastAPI runs in its threads."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from fastapi import FastAPI, File, UploadFile
from PIL import Image

app = FastAPI()
folder = Path(os.environ["MODEL_FOLDER"])
names = json.loads((folder / "bundle.json").read_text())["names"]
session = ort.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])


@app.post("/predict")
def predict(file: UploadFile = File(...)) -> dict[str, Any]:  # noqa: B008
    image = Image.open(io.BytesIO(file.file.read())).convert("RGB").resize((224, 224), Image.Resampling.BILINEAR)
    p = session.run(["y"], {"x": np.asarray(image)[None]})[0][0]
    best = int(p.argmax())
    return {
        "class": names[best],
        "confidence": float(p[best]),
        "probabilities": {n: float(v) for n, v in zip(names, p, strict=True)},
    }
