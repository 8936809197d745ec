#!/usr/bin/env bash
# Locks requirements/*.in into hashed requirement files that name no package index.
set -euo pipefail
cd "$(dirname "$0")/.."
lock() {
    .venv/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header \
        --no-emit-index-url "$@" >/dev/null
}
lock requirements/runtime.in --output-file requirements/runtime.txt
lock requirements/dev.in --constraint requirements/runtime.txt --output-file requirements/dev.txt
lock requirements/uv.in --constraint requirements/dev.txt --output-file requirements/uv.txt
lock requirements/build.in --constraint requirements/dev.txt --output-file requirements/build.txt
lock requirements/clients.in --output-file requirements/clients.txt
lock requirements/image.in --constraint requirements/runtime.txt --output-file requirements/image.txt
lock requirements/infra.in --output-file requirements/infra.txt
lock requirements/scan.in --output-file requirements/scan.txt
