#!/usr/bin/env bash
# Makes a virtual environment; with hashed lock files, also installs them and the package into it.
# usage: environment.sh DIRECTORY [LOCKFILE...]
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
    local package log sudo=()
    package=$("$1" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')
    command -v apt-get >/dev/null || {
        echo "$1 has no ensurepip; install your system's package with Python's venv module." >&2
        return 1
    }
    if [ "$(id -u)" != 0 ]; then
        command -v sudo >/dev/null || {
            echo "The package $package is missing; run as root: apt-get install $package" >&2
            return 1
        }
        sudo=(sudo)
    fi
    echo "Installing the Debian package $package (Python's venv module) ..."
    log=$(mktemp)
    # sudo asks for a password on the terminal itself, and hands no environment on.
    if ! { "${sudo[@]}" apt-get update -q &&
        "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive \
            apt-get install -yq --no-install-recommends "$package"; } >"$log" 2>&1; then
        cat "$log" >&2
        echo "$package could not be installed; run as root: apt-get install $package" >&2
        rm -f "$log"
        return 1
    fi
    rm -f "$log"
}

# One without pip was interrupted while it was made; one that names another place was moved here,
# and its programs would look for their Python there.
if ! "$venv/bin/python" -c 'import pip' >/dev/null 2>&1 ||
    { [ -e "$venv/.made-in" ] && [ "$(cat "$venv/.made-in")" != "$PWD" ]; }; then
    python=$(python_of_version)
    "$python" -c 'import ensurepip' >/dev/null 2>&1 || install_venv_module "$python"
    echo "Making the environment $venv ..."
    rm -rf "$venv"
    "$python" -m venv "$venv"
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps \
        --require-hashes --requirement requirements/uv.txt ||
        echo "Without uv, which cannot be installed here, all else takes longer." >&2
    echo "$PWD" >"$venv/.made-in"
fi
[ $# -gt 0 ] || exit 0

arguments=()
for lock in "$@"; do arguments+=(--requirement "$lock"); done
echo "Installing the locked packages ..."
scripts/install.sh "$venv" --require-hashes "${arguments[@]}"
scripts/install.sh "$venv" --no-deps --no-build-isolation --editable .
