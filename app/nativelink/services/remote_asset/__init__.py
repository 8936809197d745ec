"""The Remote Asset API: contents by where they come from."""
