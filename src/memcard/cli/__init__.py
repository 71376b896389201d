"""The command line: one file per command, calling only jobs."""
