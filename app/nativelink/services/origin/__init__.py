"""Origin events: what executions were asked for and used, recorded for who accounts for them."""
