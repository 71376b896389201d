"""One file is one operation of a recipe."""
