"""The shapes of the answers, for /openapi.json; `infer.encode` makes the answers themselves."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field

from proj.bundle import Sample


class ClassAnswer(BaseModel):
    """The answer to one input of a task with classes."""

    input: str = Field(description="The input's name: the file's, or `body`", examples=["photo.jpg"])
    label: str | None = Field(
        description="The most probable class; null where the model holds back", examples=["paper"]
    )
    not_sure: bool = Field(default=False, description="Only there, and true, when `confidence` is below the threshold")
    confidence: float = Field(ge=0, le=1, description="Its probability", examples=[0.93])
    probabilities: dict[str, float] = Field(
        description="Every class's probability", examples=[{"paper": 0.93, "glass": 0.07}]
    )
    model: str = Field(description="NAME@VERSION", examples=["trashnet@20260101-120000-ab12"])
    warning: str = Field(default="", description="Only there when the model is not to be trusted")


class Value(BaseModel):
    """A number and its unit."""

    value: float = Field(examples=[512.0])
    unit: str = Field(examples=["kcal"])


class ValuesAnswer(BaseModel):
    """The answer to one input of a task with values."""

    input: str = Field(description="The input's name: the file's, or `body`", examples=["plate.jpg"])
    values: dict[str, Value] = Field(examples=[{"calories": {"value": 512.0, "unit": "kcal"}}])
    model: str = Field(description="NAME@VERSION", examples=["nutrition@20260101-120000-ab12"])
    warning: str = Field(default="", description="Only there when the model is not to be trusted")


class InputFailed(BaseModel):
    """One of several inputs, which could not be read."""

    input: str = Field(examples=["b.jpg"])
    error: str = Field(examples=["the file is empty"])


class ClassAnswers(BaseModel):
    """The answers to several inputs, in their order."""

    predictions: list[ClassAnswer | InputFailed]


class ValuesAnswers(BaseModel):
    """The answers to several inputs, in their order."""

    predictions: list[ValuesAnswer | InputFailed]


class Health(BaseModel):
    """The process lives."""

    status: Literal["ok"]


class Ready(BaseModel):
    """The models are loaded and requests are welcome."""

    status: Literal["ready"]
    model: str = Field(description="The first one")
    models: list[str] = Field(description="NAME@VERSION of each")


class Line(BaseModel):
    """One of the models."""

    name: str = Field(description="Where its routes are: /NAME/predict")
    title: str
    question: str
    model: str = Field(description="NAME@VERSION")
    modality: str


class Served(BaseModel):
    """The models, in the order of the command line."""

    models: list[Line]


class Limits(BaseModel):
    """What one request may hold."""

    max_upload_mb: float = Field(description="Size of the whole body, in millions of bytes")
    max_inputs: int = Field(description="Number of inputs, and of pictures in a form")
    max_pixels: int = Field(description="Width times height of a picture")


class ModelFacts(BaseModel):
    """What the bundle says of itself."""

    model: str = Field(description="NAME@VERSION")
    name: str
    version: str
    title: str
    question: str
    modality: str
    kind: Literal["classes", "values"]
    page_input: Literal["photo", "sketch"]
    threshold: float = Field(description="Answers less sure than this carry no label")
    names: list[str] = Field(description="Classes, or targets, in the model's order")
    units: list[str] = Field(description="The targets' units; empty for classes")
    preprocess: dict[str, Any] = Field(description="What an input is brought to")
    samples: list[Sample] = Field(description="Inputs to try: `body` is what POST /predict takes as JSON")
    data_hash: str
    metrics: dict[str, float] = Field(description="On the split named below")
    split: str
    backbone: str
    engine: str = Field(description="What runs it here, and how precisely", examples=["onnxruntime fp32"])
    created: str
    synthetic: bool = Field(description="Trained on synthetic data: answers mean nothing")
    fast: bool = Field(description="Trained on one batch: answers mean nothing")
    warning: str | None
    limits: Limits


class Problem(BaseModel):
    """What went wrong (RFC 9457)."""

    type: str = Field(description="Points at the kind of problem on /docs", examples=["/docs#unreadable"])
    title: str = Field(examples=["The input cannot be read"])
    status: int = Field(ge=400, le=599, examples=[422])
    detail: str = Field(examples=["the file is empty"])
    instance: str = Field(description="The path that was asked for", examples=["/predict"])
    request_id: str = Field(default="", description="The answer's X-Request-ID, as the server's log has it")
