"""Many units of work in one process, in shards or on a Ray cluster, resumable at any moment."""
