# The training image: all that `proj train` needs, on a CPU or, with `--gpus all`, on NVIDIA's GPUs.
#
#   docker build -f dockerfiles/train.dockerfile -t proj-train .
#   docker run --rm --init -u "$(id -u):$(id -g)" -v "$PWD/data:/app/data" -v "$PWD/models:/app/models" \
#       proj-train task=digits model.lr=1e-3
#
# docs/images.md tells the rest.
ARG BASE_IMAGE=python:3.11-slim-bookworm
ARG UV_IMAGE=ghcr.io/astral-sh/uv:0.13.8

FROM ${UV_IMAGE} AS uv

# The packages, from the lock alone: an edit of the source leaves this layer as it is.
FROM ${BASE_IMAGE} AS packages
ENV UV_PROJECT_ENVIRONMENT=/opt/venv UV_LINK_MODE=copy UV_COMPILE_BYTECODE=1 UV_PYTHON_DOWNLOADS=never
WORKDIR /app
COPY pyproject.toml uv.lock ./
RUN --mount=type=cache,target=/root/.cache/uv --mount=type=bind,from=uv,source=/uv,target=/usr/local/bin/uv \
    uv sync --locked --no-default-groups --extra train --no-install-project

# proj itself, a megabyte.
FROM packages AS project
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY configs configs
COPY src src
RUN --mount=type=cache,target=/root/.cache/uv --mount=type=bind,from=uv,source=/uv,target=/usr/local/bin/uv \
    uv pip install --no-deps --python /opt/venv/bin/python --target /opt/proj .

FROM packages
# Any user id works, with or without a passwd entry: only /app/data, /app/models and /tmp are ever written.
ENV PATH=/opt/proj/bin:/opt/venv/bin:$PATH PYTHONPATH=/opt/proj \
    PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    HOME=/tmp USER=proj LOGNAME=proj XDG_CACHE_HOME=/tmp/cache MPLCONFIGDIR=/tmp/matplotlib \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
# The allocator: as process 1 `proj train` does not start itself anew for it (src/proj/train/allocator.py).
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends libjemalloc2 && rm -rf /var/lib/apt/lists/*
ENV LD_PRELOAD=libjemalloc.so.2 \
    MALLOC_CONF=thp:always,metadata_thp:auto,dirty_decay_ms:-1,muzzy_decay_ms:-1,oversize_threshold:0
RUN mkdir -m 0777 data models
COPY --from=project /opt/proj /opt/proj
COPY configs configs
VOLUME ["/app/data", "/app/models"]
USER 10001:10001
ENTRYPOINT ["proj", "train"]
