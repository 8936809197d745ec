# Packer 1.7 and newer fetch what speaks to AWS. Debian 12's 1.6 has it built in and does not know this block.
packer {
  required_plugins {
    amazon = {
      source  = "github.com/hashicorp/amazon"
      version = "~> 1.3"
    }
  }
}
