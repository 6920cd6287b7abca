"""submitit loads numpy before a task that may want it; none here does, and it takes a while."""

raise ImportError
