#!/bin/bash
# Installs the program into /opt/nativelink, out of the bundle alone: nothing is downloaded, and every wheel has to
# have the hash of the lock. Also writes what the whole image consists of (sbom.cdx.json, CycloneDX).
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
target=/opt/nativelink

pips=("$here"/wheels/pip-*.whl)
# pip runs out of its own wheel: the image has none.
pip() {
  local python=$1
  shift
  PYTHONPATH=${pips[0]} "$python" -m pip --isolated "$@"
}
install_locked() {
  local python=$1
  shift
  pip "$python" install --quiet --no-index --find-links "$here/wheels" --no-deps --require-hashes \
    --no-compile --disable-pip-version-check --root-user-action ignore "$@"
}

rm -rf "$target"
python3 -m venv --without-pip "$target"
install_locked "$target/bin/python" --requirement "$here/requirements/runtime.txt" \
  --requirement "$here/requirements/program.txt"
# By content, not by time: two installations are the same bytes, and a read-only root needs no more.
"$target/bin/python" -m compileall -q --invalidation-mode unchecked-hash "$target/lib"

package=$("$target/bin/python" -c 'import nativelink; print(*nativelink.__path__)')
ln -s "${package#"$target/"}/configs" "$target/configs"
install -D -m 0644 -t "$target/docs" "$here/docs/roles.md"
install -m 0644 -t "$target" "$here/LICENSE"
install -D -m 0755 -t /usr/lib/nativelink "$here/scripts/test.sh"
install -D -m 0644 -t /usr/lib/nativelink "$here/boot/healthy.py"

tools=$(mktemp -d)
trap 'rm -rf "$tools"' EXIT
install_locked python3 --target "$tools" --requirement "$here/requirements/image.txt"
PYTHONPATH=$tools python3 "$here/scripts/sbom.py" --environment "$target" --wheels "$here/wheels" \
  --output "$target/sbom.cdx.json"
chmod 0644 "$target/sbom.cdx.json"
