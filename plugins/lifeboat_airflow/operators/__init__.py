"""Each operator translates one act of the core into a task."""
