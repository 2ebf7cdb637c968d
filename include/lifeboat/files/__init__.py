"""Trees of files: scanning, packing, indexing, restoring, comparing. Unchanged files cost a look, not a read."""
