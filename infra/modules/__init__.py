"""Constructs, each of one intent. They take other constructs and settings, never bare ARNs."""
