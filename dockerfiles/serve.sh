#!/bin/sh
# Entry point of the serving image: finds the model, then becomes `proj serve` (arguments go to it).
set -eu

model=${MODEL:-/model}

case $model in
*://*) ;; # fetched by proj itself
*)
    if [ ! -f "$model/bundle.json" ] && [ ! -f "$model/run.json" ]; then
        cat >&2 <<EOF
error: this image has no model: neither bundle.json nor run.json in $model
build one in, from the project's folder:
  docker build -f dockerfiles/serve.dockerfile --build-arg BUNDLE=models/TASK/RUN/bundle -t proj-serve .
or mount one:
  docker run -p 8000:8000 -v "\$PWD/models/TASK/RUN/bundle:/bundle:ro" -e MODEL=/bundle proj-serve
EOF
        exit 2
    fi
    ;;
esac

# What is fetched is kept under the project's folder, and of all folders this user may write to /tmp alone. The working
# folder stays: serve.yaml and relative paths are looked for there.
for word in "$model" "$@"; do
    case $word in
    http://* | https://* | gs://*)
        exec proj --project /tmp serve "$model" --host "$HOST" --port "$PORT" "$@"
        ;;
    esac
done

exec proj serve "$model" --host "$HOST" --port "$PORT" "$@"
