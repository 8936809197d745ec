"""Stores behind another server."""
