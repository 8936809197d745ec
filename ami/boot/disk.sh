#!/bin/bash
# Puts the machine's own NVMe disks at one directory: nativelink-disk.service runs it at every boot.
#
# One disk gets a file system, several become one RAID 0 first: what is on them may be lost at any
# time, and is a copy. A machine without such disks, or whose disks cannot be used, has the
# directory on its root disk. What an earlier boot made is mounted again.
#
# usage: disk.sh [DIRECTORY]
set -euo pipefail

directory=${1:-/data}
label=nativelink
array=/dev/md/$label

say() { echo "nativelink-disk: $*" >&2; }

# EC2's instance store, by the name that its controllers report; EBS volumes report another.
own_disks() {
  lsblk --nodeps --noheadings --paths --raw --output NAME,MODEL |
    sed -n 's/^\(\S*\)\s\+Amazon\(\\x20\| \)EC2\(\\x20\| \)NVMe\(\\x20\| \)Instance\(\\x20\| \)Storage.*$/\1/p'
}

# Names the device with a file system on it, made if there is none yet. (Bash stops for no error in a function that is
# a condition.)
file_system() {
  local disks=("$@") device
  if [[ ${#disks[@]} -gt 1 ]]; then
    mdadm --assemble --scan >&2 || true
  fi
  if device=$(blkid --label "$label"); then
    echo "$device"
    return
  fi
  device=${disks[0]}
  if [[ ${#disks[@]} -gt 1 ]]; then
    mdadm --create "$array" --run --force --homehost=any --name="$label" --level=0 \
      --raid-devices="${#disks[@]}" "${disks[@]}" >&2 || return
    udevadm settle || true
    device=$array
  fi
  # No discards: that would take minutes, and the disks are new.
  mkfs.xfs -q -f -K -L "$label" "$device" >&2 || return
  echo "$device"
}

mkdir -p "$directory"
udevadm settle --timeout=30 || true
if ! mountpoint -q "$directory"; then
  mapfile -t disks < <(own_disks)
  if [[ ${#disks[@]} -eq 0 ]]; then
    say "no disks of the instance: $directory is on the root disk"
  # Nothing there is anybody's but the program's: no devices, no programs with others' rights.
  elif device=$(file_system "${disks[@]}") &&
    mount -o noatime,nodev,nosuid "$device" "$directory"; then
    say "$directory is on ${disks[*]}"
  else
    say "cannot use ${disks[*]}: $directory is on the root disk"
  fi
fi
chown nativelink:nativelink "$directory"
chmod 0750 "$directory"
