"""Jobs that move the journal into the ledger and compare the two."""
