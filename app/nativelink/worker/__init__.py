"""Runs actions on this machine."""
