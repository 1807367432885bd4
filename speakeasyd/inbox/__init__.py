"""The watched folder: events, scans, hashing. The only importer of watchdog."""
