"""Read pickle programs as data: a bounded interpreter that imports, looks up and calls nothing."""
