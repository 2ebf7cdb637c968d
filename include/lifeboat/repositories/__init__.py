"""Flat stores of objects behind one small contract: memory, local disk, S3, Azure Blob."""
