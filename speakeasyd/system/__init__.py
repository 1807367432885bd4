"""What differs from one operating system to the next: signals, and the service manager."""
