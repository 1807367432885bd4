"""Exit statuses of a worker process. The module imports nothing, so that a worker starts quickly."""

EXIT_FAULT = 70  # a fault was reported; the state of the process is unreliable
EXIT_ORPHAN = 71  # the daemon is gone
