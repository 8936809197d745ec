#!/usr/bin/env bash
# Runs the environment's uv, told of the index and the certificates that pip's settings name.
# usage: uv.sh ARGUMENT...
set -euo pipefail

own=$(dirname "$0")/../.venv/bin

settings=$("$own/python" -m pip config list 2>/dev/null || true)
setting() { sed -n "s/^[a-z:]*\.$1='\(.*\)'\$/\1/p" <<<"$settings" | head -n 1; }

index=$(setting index-url)
[ -z "$index" ] || export UV_DEFAULT_INDEX=${UV_DEFAULT_INDEX:-$index}
certificates=$(setting cert)
[ -z "$certificates" ] || export SSL_CERT_FILE=${SSL_CERT_FILE:-$certificates}
exec "$own/uv" "$@"
