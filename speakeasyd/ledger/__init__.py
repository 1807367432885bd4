"""The ledger: an SQLite file with the state of every file; the rest can be rebuilt from it."""
