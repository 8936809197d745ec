"""A pool of workers in virtual time: policies, boot delay, interruptions, prices."""
