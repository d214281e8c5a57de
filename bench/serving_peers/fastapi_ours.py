"""The same FastAPI server with our ONNX file, our decoder and as many workers and threads as ours has."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio.to_thread
from fastapi import FastAPI, File, UploadFile

from proj import infer


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    anyio.to_thread.current_default_thread_limiter().total_tokens = int(os.environ["THREADS"])
    yield


app = FastAPI(lifespan=lifespan)
model = infer.load(Path(os.environ["MODEL_FOLDER"]), threads=1)
names = model.manifest.names


@app.post("/predict")
def predict(file: UploadFile = File(...)) -> dict[str, Any]:  # noqa: B008
    x = infer.decode(model, file.file.read())
    p = infer.run(model, x[None])[0]
    best = int(p.argmax())
    return {
        "class": names[best],
        "confidence": float(p[best]),
        "probabilities": {n: float(v) for n, v in zip(names, p, strict=True)},
    }
