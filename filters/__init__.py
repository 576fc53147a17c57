"""Which rows of a pool to keep: filters, fits and the recipes made of them. Arrow in, booleans out; no Beam, no I/O."""
