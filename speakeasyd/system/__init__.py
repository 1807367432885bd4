"""Parts that differ between operating systems: signals, limits, memory, service manager."""
