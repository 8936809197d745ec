#!/bin/bash
# Installs Debian's packages that the named lists have, out of the archives that this machine's apt knows.
#
# usage: packages.sh LIST...      for instance: packages.sh container machine
set -euo pipefail
lists=$(dirname "$0")/../packages

wanted=()
for list in "$@"; do
  mapfile -t -O "${#wanted[@]}" wanted < <(sed '/^#/d; /^$/d' "$lists/$list.txt")
done

missing=()
for package in "${wanted[@]}"; do
  dpkg-query --show --showformat '${db:Status-Status}\n' "$package" 2>/dev/null | grep -qx installed ||
    missing+=("$package")
done
if [[ ${#missing[@]} -eq 0 ]]; then
  echo "packages: all there"
  exit
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -q
# What is there already comes up to date with what is new.
apt-get upgrade -yq
apt-get install -yq --no-install-recommends "${missing[@]}"
apt-get clean
rm -rf /var/lib/apt/lists/*
