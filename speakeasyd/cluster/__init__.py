"""The worker pool on a Ray cluster. `driver` and what it imports run in a process of their own."""
