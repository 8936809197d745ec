#!/bin/bash
# Make a root of its own with Debian sid's Bazel 7, for `make test-clients`.
#
# Debian 12's Bazel is 4.2.3; sid's is 7 and would drag half of sid with it. So it lives below
# .cache/ and is entered by chroot (1.6 GB, a few minutes, once). The archive's address is the one
# that this machine's apt uses.
set -euo pipefail
cd "$(dirname "$0")/.."

root=$PWD/.cache/bazel7
[[ -e $root/.ready ]] && exit 0

as_root=()
[[ $(id -u) == 0 ]] || as_root=(sudo -n)

.venv/bin/python scripts/tools.py debootstrap
archive=$(apt-cache policy | awk '$3 ~ /\/main$/ && $2 ~ /\/debian\/?$/ { print $2; exit }')
if [[ -z $archive ]]; then
  echo "bazel7_root: apt on this machine names no Debian archive" >&2
  exit 1
fi

"${as_root[@]}" rm -rf "$root"
mkdir -p "$root"
"${as_root[@]}" debootstrap --variant=minbase sid "$root" "$archive"
# What lets this machine reach the archive lets the root reach it.
"${as_root[@]}" cp /etc/resolv.conf "$root/etc/resolv.conf"

# Java's set-up reads /proc; the mounts are of a namespace that ends with each command.
inside() {
  # shellcheck disable=SC2016 # expanded inside
  "${as_root[@]}" unshare --mount bash -euc '
    mount --rbind /dev "$0/dev"
    mount --rbind /proc "$0/proc"
    exec chroot "$0" env DEBIAN_FRONTEND=noninteractive "$@"
  ' "$root" "$@"
}

# A mirror may lag behind by more than sid's index is valid; its signature is still checked.
inside apt-get -o Acquire::Check-Valid-Until=false update -q
inside apt-get install -yq --no-install-recommends bazel-bootstrap gcc libc6-dev \
  libnetty-tcnative-java libnetty-tcnative-jni
# Its netty speaks TLS through this library only, and looks for it under upstream's name.
inside bash -c 'install -D /usr/lib/*/jni/libnetty-tcnative.so \
  /opt/jni/libnetty_tcnative_linux_x86_64.so'
inside apt-get clean
"${as_root[@]}" touch "$root/.ready"
