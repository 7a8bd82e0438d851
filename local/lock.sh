#!/usr/bin/env bash
# Resolves the requirement files together, then each alone within that result: one venv satisfies all. What is installed
# on servers has hashes. The laptop's own lock has none: which build of torch it takes is the machine's business.
set -euo pipefail
cd "$(dirname "$0")/.."
compile() { .venv/bin/uv pip compile --quiet --python-platform x86_64-manylinux_2_28 --python-version 3.11.7 --no-header --no-annotate "$@"; }
compile requirements.txt requirements-forecast.txt spark_jobs/requirements.txt serving/requirements.txt local/requirements.txt \
  ${KEEP:+--constraint "$KEEP"} --output-file local/requirements.lock
for folder in . spark_jobs serving; do
  compile "$folder/requirements.txt" --generate-hashes --constraint local/requirements.lock --output-file "$folder/requirements.lock"
done
# The same versions must also exist for Python 3.12.
.venv/bin/uv pip compile --quiet --python-platform x86_64-manylinux_2_28 --python-version 3.12.1 --no-header local/requirements.lock --output-file "$(mktemp)" >/dev/null
