"""Configuration files as a source: found, archived whenever they change, compared, restored, proven."""
