#!/bin/bash
# Makes the user that the program runs as, and the group that actions are in. Numbers are fixed, as volumes of
# containers and disks outlive an image.
set -euo pipefail

group() { getent group "$1" >/dev/null || groupadd --gid "$2" "$1"; }

group nativelink 10001
group nativelink-actions 10002
getent passwd nativelink >/dev/null ||
  useradd --uid 10001 --gid nativelink --home-dir /var/lib/nativelink --no-create-home \
    --shell /usr/sbin/nologin nativelink
install -d -o nativelink -g nativelink -m 0750 /var/lib/nativelink /data
