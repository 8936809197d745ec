#!/bin/bash
# Takes away what belongs to the machine that an image was made on, and to no other.
set -euo pipefail

if command -v cloud-init >/dev/null; then
  cloud-init clean --logs --seed
fi
rm -f /etc/ssh/ssh_host_*key* /etc/nativelink/environment /root/.bash_history /home/*/.bash_history
rm -rf /home/*/.ssh/authorized_keys /root/.ssh/authorized_keys /run/nativelink
rm -rf /var/lib/apt/lists/* /var/lib/nativelink/* /var/lib/nativelink/.[!.]*
find /var/log -type f -exec truncate --size 0 {} +
: >/etc/machine-id
