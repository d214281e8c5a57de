"""FastAPI + torch eager + Pillow, as the reference systems write it: one `async def` that does it all."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path
from typing import Any

import timm
import torch
from fastapi import FastAPI, File, UploadFile
from PIL import Image
from torchvision import transforms

app = FastAPI()
names = json.loads((Path(os.environ["MODEL_FOLDER"]) / "bundle.json").read_text())["names"]
kept = torch.load(os.environ["WEIGHTS"], weights_only=True)
model = timm.create_model("mobilenetv3_small_100", pretrained=False, num_classes=len(names))
model.load_state_dict(kept["state"])
model.eval()
transform = transforms.Compose(
    [transforms.Resize((224, 224)), transforms.ToTensor(), transforms.Normalize(kept["mean"], kept["std"])]
)


@app.post("/predict")
async def predict(file: UploadFile = File(...)) -> dict[str, Any]:  # noqa: B008
    image = Image.open(io.BytesIO(await file.read())).convert("RGB")
    x = transform(image).unsqueeze(0)
    with torch.no_grad():
        p = torch.softmax(model(x), dim=1)[0]
    best = int(p.argmax())
    return {
        "class": names[best],
        "confidence": float(p[best]),
        "probabilities": {n: float(v) for n, v in zip(names, p, strict=True)},
    }
