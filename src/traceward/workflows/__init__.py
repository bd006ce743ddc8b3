"""Whole tasks: each function reads files, runs models and returns what it found; nothing here prints a table."""
