# The same image as the AWS kit's pipeline makes, for those who build theirs with Packer:
#
#   make image-bundle
#   packer init ami/packer && packer build -var region=eu-central-1 ami/packer
#
# Its number goes into the region's settings: image: {ami_ids: {x86-64: ami-...}}.

variable "region" {
  type        = string
  description = "AWS region in which the image is made."
}

variable "bundle" {
  type        = string
  default     = "dist/image-bundle.tar.gz"
  description = "What `make image-bundle` wrote."
}

variable "architecture" {
  type        = string
  default     = "amd64"
  description = "Of the machines: amd64 or arm64. The instance type has to be of it."
}

variable "instance_type" {
  type        = string
  default     = "c6i.large"
  description = "Of the machine that makes the image."
}

variable "subnet_id" {
  type        = string
  default     = ""
  description = "Where that machine is; it needs a way to Debian's archive. Empty: the default network."
}

variable "kms_key_id" {
  type        = string
  default     = ""
  description = "Key that encrypts the image's disk. Empty: the account's own for EBS."
}

source "amazon-ebs" "debian" {
  ami_name          = "nativelink-${var.architecture}-{{timestamp}}"
  ami_description   = "NativeLink on Debian 12"
  region            = var.region
  instance_type     = var.instance_type
  subnet_id         = var.subnet_id
  ssh_username      = "admin"
  encrypt_boot      = true
  kms_key_id        = var.kms_key_id
  shutdown_behavior = "terminate"

  source_ami_filter {
    filters = {
      name                = "debian-12-${var.architecture}-*"
      root-device-type    = "ebs"
      virtualization-type = "hvm"
    }
    # The account of the Debian project.
    owners      = ["136693071363"]
    most_recent = true
  }

  launch_block_device_mappings {
    device_name           = "/dev/xvda"
    volume_type           = "gp3"
    volume_size           = 20
    iops                  = 3000
    throughput            = 125
    delete_on_termination = true
  }

  tags = {
    Name = "nativelink-${var.architecture}"
  }
}

build {
  sources = ["source.amazon-ebs.debian"]

  provisioner "file" {
    source      = var.bundle
    destination = "/tmp/nativelink.tar.gz"
  }

  provisioner "shell" {
    execute_command = "sudo sh -c '{{ .Vars }} {{ .Path }}'"
    inline_shebang  = "/bin/bash -eu"
    inline = [
      "cloud-init status --wait || true",
      "mkdir -p /tmp/nativelink",
      "tar -xzf /tmp/nativelink.tar.gz -C /tmp/nativelink",
      "/tmp/nativelink/install.sh base",
      "/tmp/nativelink/install.sh stack",
      "systemctl daemon-reload",
      "systemctl restart nftables.service",
      "/usr/lib/nativelink/test.sh",
      "/tmp/nativelink/scripts/clean.sh",
      "rm -rf /tmp/nativelink /tmp/nativelink.tar.gz"
    ]
  }
}
