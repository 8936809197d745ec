#!/bin/bash
# Whether the roles would start from this image: every configuration is good, the program starts, answers /status, and
# drains when it is told to. With systemd it runs as the units have it; then also disks, metadata and firewall are
# tried. Leaves nothing behind.
set -euo pipefail
program=/opt/nativelink/bin/nativelink
python=/opt/nativelink/bin/python
configs=/opt/nativelink/configs
healthy=/usr/lib/nativelink/healthy.py
environment=/etc/nativelink/environment

fail() {
  echo "test: $*" >&2
  exit 1
}

as_program() {
  setpriv --reuid=nativelink --regid=nativelink --clear-groups "$@"
}

until_healthy() {
  local tries
  for tries in {1..120}; do
    if "$python" -I "$healthy" 2>/dev/null; then
      return
    fi
    sleep 0.5
  done
  "$python" -I "$healthy" || fail "no answer after $tries tries"
}

# What the instance's metadata answers to programs of a group: an exit code.
ask_metadata() {
  setpriv --reuid=nativelink --regid="$1" --clear-groups curl -sf -o /dev/null --max-time 5 -X PUT \
    -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' http://169.254.169.254/latest/api/token
}

"$program" --version
for role in cas scheduler worker all_in_one; do
  as_program env HOME=/nonexistent "$program" config check "$configs/$role.json5"
done
[[ -s /opt/nativelink/sbom.cdx.json ]] || fail "there is no list of what the image consists of"

if [[ -d /run/systemd/system ]]; then
  [[ ! -e $environment ]] || fail "$environment is there: this is no fresh machine"
  trap 'systemctl stop nativelink@all_in_one.service; rm -f "$environment"; rm -rf /data/nativelink' EXIT
  cat >"$environment" <<END
NATIVELINK_ROLE=worker
NATIVELINK_IMDS=http://169.254.169.254
NATIVELINK_SLOTS=0
NATIVELINK_DISK_PERCENT=50
NATIVELINK_LOG_GROUP=none
AWS_REGION=none
XDG_CACHE_HOME=/data
END
  systemctl start nativelink@all_in_one.service
  until_healthy
  systemctl stop nativelink@all_in_one.service
  [[ $(systemctl show --property Result --value nativelink@all_in_one.service) == success ]] ||
    fail "nativelink@all_in_one.service did not end well"
  systemctl is-active --quiet nftables.service chrony.service || fail "firewall or clock does not run"
  ask_metadata nativelink || fail "the program has no way to the instance's metadata"
  ! ask_metadata nativelink-actions || fail "actions have a way to the instance's metadata"
else
  folder=$(mktemp -d)
  trap 'rm -rf "$folder"' EXIT
  chown nativelink "$folder"
  # The shell waits for the program's own process: setpriv and env become it.
  setpriv --reuid=nativelink --regid=nativelink --clear-groups \
    env HOME=/nonexistent XDG_CACHE_HOME="$folder" "$program" "$configs/all_in_one.json5" &
  process=$!
  until_healthy
  kill -TERM "$process"
  wait "$process" || fail "the program ended with exit code $?"
fi
echo "test: good"
