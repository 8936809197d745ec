#!/usr/bin/env bash
# Makes or updates a virtual environment from hashed lock files, and installs the package into it.
# usage: environment.sh DIRECTORY LOCKFILE...
set -euo pipefail

venv=$1
shift

python_of_version() {
    local candidate
    for candidate in "${PYTHON:-}" python3 python3.13 python3.12 python3.11; do
        [ -n "$candidate" ] && command -v "$candidate" >/dev/null 2>&1 || continue
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    echo "Python 3.11 or newer is needed, and neither \$PYTHON nor python3 is one." >&2
    return 1
}

# Debian and Ubuntu keep the venv module's other half, ensurepip, in a package of its own.
install_venv_module() {
    local python=$1 version sudo=
    version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    command -v apt-get >/dev/null || {
        echo "$python has no ensurepip; install your system's python3-venv package." >&2
        return 1
    }
    [ "$(id -u)" = 0 ] || sudo=sudo
    echo "Installing python$version-venv (the venv module is a package of its own here) ..."
    $sudo apt-get update -qq
    DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -qq --no-install-recommends "python$version-venv" >/dev/null
}

if ! "$venv/bin/python" -c 'import sys' >/dev/null 2>&1; then
    python=$(python_of_version)
    "$python" -c 'import ensurepip' >/dev/null 2>&1 || install_venv_module "$python"
    echo "Making the environment $venv ..."
    rm -rf "$venv"
    "$python" -m venv "$venv"
fi

arguments=()
for lock in "$@"; do arguments+=(--requirement "$lock"); done
echo "Installing the locked packages of $* ..."
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes "${arguments[@]}"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
