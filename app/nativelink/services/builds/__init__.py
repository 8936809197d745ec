"""Build events: taken from build tools, kept, and summed up for people."""
