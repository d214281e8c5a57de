# The serving image: the core of proj and one model; no torch, hydra or dvc.
#
#   docker build -f dockerfiles/serve.dockerfile --build-arg BUNDLE=models/digits/RUN/bundle -t proj-serve .
#   docker run --rm -p 8000:8000 proj-serve
#
# or without a model inside:
#
#   docker build -f dockerfiles/serve.dockerfile -t proj-serve .
#   docker run --rm -p 8000:8000 -v "$PWD/models/digits/RUN/bundle:/bundle:ro" -e MODEL=/bundle proj-serve
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
    uv sync --locked --no-default-groups --no-install-project

# proj itself, a megabyte.
FROM packages AS project
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY configs configs
COPY src src
RUN --mount=type=cache,target=/root/.cache/uv --mount=type=bind,from=uv,source=/uv,target=/usr/local/bin/uv \
    uv pip install --no-deps --python /opt/venv/bin/python --target /opt/proj .

FROM packages
# Any user id works, with or without a passwd entry, also on a read-only file system: only /tmp is ever written.
ENV PATH=/opt/proj/bin:/opt/venv/bin:$PATH PYTHONPATH=/opt/proj \
    PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    HOME=/tmp USER=proj LOGNAME=proj \
    HOST=0.0.0.0 PORT=8000
COPY --from=project /opt/proj /opt/proj
COPY dockerfiles/serve.sh dockerfiles/healthcheck.py /opt/entry/
# Without BUNDLE only the licence is copied, and MODEL says at run time where the model is.
ARG BUNDLE=""
COPY ${BUNDLE:-LICENSE} /model/
USER 10001:10001
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=20s --retries=3 CMD ["python", "/opt/entry/healthcheck.py"]
ENTRYPOINT ["sh", "/opt/entry/serve.sh"]
