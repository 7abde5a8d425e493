"""The command line: one verb a file; parse, call, print, exit code."""
