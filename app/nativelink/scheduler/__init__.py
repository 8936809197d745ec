"""Remote execution's state: which action waits, which worker runs it, who is told."""
