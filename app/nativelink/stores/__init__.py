"""Stores: keys to bytes, behind one three-method protocol (`stores.store.Store`)."""
