"""NativeLink's system in Python: a Remote Execution API v2 cache, scheduler and worker."""
