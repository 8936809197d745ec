#!/bin/bash
# Makes this machine, or this container, one that the roles run on. Run it twice, and nothing is different.
#
# usage: install.sh base | stack | container
#   base       the operating system of a machine
#   stack      the program, on a machine that has the base
#   container  what of both a container needs
set -euo pipefail
scripts=$(cd "$(dirname "$0")" && pwd)/scripts
# What is installed is for every user.
umask 022

case ${1:-} in
base)
  "$scripts/packages.sh" container machine actions
  "$scripts/user.sh"
  "$scripts/machine.sh"
  "$scripts/agents.sh"
  ;;
stack)
  "$scripts/stack.sh"
  ;;
container)
  "$scripts/packages.sh" container
  "$scripts/user.sh"
  "$scripts/stack.sh"
  ;;
*)
  echo "usage: install.sh base | stack | container" >&2
  exit 2
  ;;
esac
