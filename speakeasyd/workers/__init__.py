"""The parent's side of the worker processes: processes, pipes, supervision, the pool."""
