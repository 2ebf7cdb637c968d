"""PostgreSQL: finding client programs, dumping with evidence, restoring, throw-away servers."""
