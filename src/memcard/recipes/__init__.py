"""Recipes: checkpoints not yet computed. Nodes, text form, planner, executor."""
