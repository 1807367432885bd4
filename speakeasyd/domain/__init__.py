"""Pure rules: no I/O, no clock but an argument."""
