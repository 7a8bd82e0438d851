#!/bin/sh
# Tells a Spark executor which GPUs its host has: {"name": "gpu", "addresses": ["0", "1"]}.
# Spark runs it when the executor starts (spark.executor.resource.gpu.discoveryScript).
if ! indices=$(nvidia-smi --query-gpu=index --format=csv,noheader); then
    echo "host $(hostname) has no GPU, or no NVIDIA driver: install it by an initialization action" >&2
    exit 1
fi
addresses=$(printf '%s\n' "$indices" | sed 's/.*/"&"/' | paste -sd, -)
printf '{"name": "gpu", "addresses": [%s]}\n' "$addresses"
