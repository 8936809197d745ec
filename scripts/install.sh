#!/usr/bin/env bash
# Installs into a virtual environment what pip would, given the same arguments.
# usage: install.sh DIRECTORY ARGUMENT...
#
# uv does in a second what takes pip most of a minute; where it fails, pip has the last word.
set -euo pipefail

venv=$1
shift
here=$(dirname "$0")
own=$here/../.venv/bin
python=$own/python
[ -x "$python" ] || python=python3

if [ -x "$own/uv" ]; then
    if "$here/uv.sh" pip install --quiet --python "$venv/bin/python" "$@"; then
        exit 0
    fi
    echo "pip tries it, which takes longer ..." >&2
fi
# Few of their thousands of modules are ever imported; those are compiled then.
exec "$python" -m pip --python "$venv/bin/python" \
    install --quiet --disable-pip-version-check --no-compile "$@"
