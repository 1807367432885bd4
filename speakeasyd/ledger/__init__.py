"""The ledger: one SQLite file that knows the state of every file. Everything else can be rebuilt from it."""
