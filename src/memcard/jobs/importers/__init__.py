"""Recipes of other programs as recipes of this one; one file per dialect.

What has no exact counterpart is refused by name. What has no bearing on the weights is said in the notes.
"""
