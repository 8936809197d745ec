#!/bin/bash
# Bazel 7 in its own root: scripts/bazel7.sh DIRECTORY ARGUMENTS...
#
# DIRECTORY is there under the same path inside, and Bazel runs in the current one, which must be
# below it. Mounts are of a namespace that ends with the process.
set -euo pipefail

root=$(realpath "$(dirname "$0")/../.cache/bazel7")
shared=$(realpath "$1")
shift

as_root=()
[[ $(id -u) == 0 ]] || as_root=(sudo -n)

# shellcheck disable=SC2016 # expanded inside
exec "${as_root[@]}" unshare --mount bash -euc '
  root=$1 shared=$2 here=$3
  shift 3
  mkdir -p "$root$shared"
  mount --rbind /dev "$root/dev"
  mount --rbind /proc "$root/proc"
  mount --bind "$shared" "$root$shared"
  exec chroot "$root" env LC_ALL=C.UTF-8 /bin/bash -c "cd \"\$0\" && exec bazel \"\$@\"" "$here" "$@"
' bazel7 "$root" "$shared" "$PWD" "$@"
