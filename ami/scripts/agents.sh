#!/bin/bash
# Installs AWS' own agents: for shells without an open port (Systems Manager), and for logs (CloudWatch). Debian has
# neither, so they come from AWS' buckets in the machine's region. Only a machine in EC2 has use for them.
set -euo pipefail

metadata=http://169.254.169.254/latest
token=$(curl -sf --max-time 5 -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' "$metadata/api/token") || {
  echo "agents: not in EC2, none installed"
  exit
}
region=$(curl -sf -H "X-aws-ec2-metadata-token: $token" "$metadata/meta-data/placement/region")
architecture=$(dpkg --print-architecture)
suffix=amazonaws.com
[[ $region != cn-* ]] || suffix=amazonaws.com.cn

agent() {
  local name=$1 address=$2 folder
  if dpkg-query --show "$name" >/dev/null 2>&1; then
    return
  fi
  folder=$(mktemp -d)
  curl -sSf --proto '=https' --retry 5 -o "$folder/$name.deb" "$address/$name.deb"
  dpkg --install "$folder/$name.deb"
  rm -rf "$folder"
}

agent amazon-ssm-agent \
  "https://s3.$region.$suffix/amazon-ssm-$region/latest/debian_$architecture"
agent amazon-cloudwatch-agent \
  "https://amazoncloudwatch-agent-$region.s3.$region.$suffix/ubuntu/$architecture/latest"
systemctl enable --quiet amazon-ssm-agent.service
# This one starts with the role, which says what log group it has.
systemctl disable --quiet amazon-cloudwatch-agent.service
