#!/bin/bash
# Sets up the operating system of a machine: limits, time, firewall, logs, and what runs at boot.
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)

# Copies the files below one directory to another, readable by everybody.
place() {
  local file
  while IFS= read -r -d '' file; do
    install -D -m 0644 "$1/$file" "$2/$file"
  done < <(cd "$1" && find . -type f -printf '%P\0')
}

place "$here/machine" /
place "$here/systemd" /etc/systemd/system
place "$here/boot" /usr/lib/nativelink
chmod 0755 /usr/lib/nativelink/*.sh /etc/nftables.conf
install -d -m 0755 /etc/nativelink
install -d -m 0750 -g adm /var/log/nativelink

# A store in memory that is swapped out is slower than the one behind it.
if [[ -e /etc/fstab ]]; then
  sed -i '/^[^#]\S*\s\+\S\+\s\+swap\s/d' /etc/fstab
fi
[[ ! -s /proc/swaps ]] || swapoff --all || true
systemctl mask --quiet swap.target

# Machines are replaced, never changed: new packages come with a new image.
systemctl mask --quiet apt-daily.timer apt-daily-upgrade.timer man-db.timer
systemctl enable --quiet chrony.service nftables.service rsyslog.service \
  nativelink-disk.service nativelink-refresh.timer
