"""One role a file, over the adapters; joined by the daemon."""
