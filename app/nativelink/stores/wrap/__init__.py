"""Stores that add one behaviour to another store."""
