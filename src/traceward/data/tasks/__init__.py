"""One file per task: how its own files become our records, and the procedural worlds that need no files."""
