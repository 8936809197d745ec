#!/usr/bin/env bash
# Installs into a virtual environment what pip would, given the same arguments.
# usage: install.sh DIRECTORY ARGUMENT...
#
# uv does in a second what takes pip most of a minute. It is told of an index that pip's settings
# name; where it fails all the same, pip has the last word.
set -euo pipefail

venv=$1
shift
own=$(dirname "$0")/../.venv/bin
python=$own/python
[ -x "$python" ] || python=python3

setting() { "$python" -m pip config list 2>/dev/null | sed -n "s/^[a-z:]*\.$1='\(.*\)'\$/\1/p" | head -n 1; }

if [ -x "$own/uv" ]; then
    index=$(setting index-url)
    [ -z "$index" ] || export UV_DEFAULT_INDEX=${UV_DEFAULT_INDEX:-$index}
    certificates=$(setting cert)
    [ -z "$certificates" ] || export SSL_CERT_FILE=${SSL_CERT_FILE:-$certificates}
    if "$own/uv" pip install --quiet --python "$venv/bin/python" "$@"; then
        exit 0
    fi
    echo "pip tries it, which takes longer ..." >&2
fi
# Few of their thousands of modules are ever imported; those are compiled then.
exec "$python" -m pip --python "$venv/bin/python" \
    install --quiet --disable-pip-version-check --no-compile "$@"
