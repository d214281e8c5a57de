"""LitServe with batches of up to 16, for which it waits 10 ms at the most, and ONNX Runtime: python ... PORT."""

from __future__ import annotations

import io
import json
import os
import sys
from pathlib import Path
from typing import Any

import litserve as ls
import numpy as np
import onnxruntime as ort
from PIL import Image


class Photos(ls.LitAPI):
    def setup(self, device: str) -> None:  # noqa: ARG002
        folder = Path(os.environ["MODEL_FOLDER"])
        self.names = json.loads((folder / "bundle.json").read_text())["names"]
        self.session = ort.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])

    def decode_request(self, request) -> np.ndarray[Any, Any]:  # LitServe makes a route of an annotation
        image = Image.open(io.BytesIO(request["file"].file.read())).convert("RGB")
        return np.asarray(image.resize((224, 224), Image.Resampling.BILINEAR))

    def batch(self, inputs: list[np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
        return np.stack(inputs)

    def predict(self, x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return self.session.run(["y"], {"x": x})[0]

    def unbatch(self, output: np.ndarray[Any, Any]) -> list[np.ndarray[Any, Any]]:
        return list(output)

    def encode_response(self, p: np.ndarray[Any, Any]) -> dict[str, Any]:
        best = int(p.argmax())
        return {
            "class": self.names[best],
            "confidence": float(p[best]),
            "probabilities": {n: float(v) for n, v in zip(self.names, p, strict=True)},
        }


if __name__ == "__main__":
    server = ls.LitServer(Photos(max_batch_size=16, batch_timeout=0.01), accelerator="cpu")
    server.run(host="127.0.0.1", port=int(sys.argv[1]), log_level="warning", generate_client_file=False)
