"""The attribution methods by family; beside each method lies what it alone uses.

Imports everything above it in the list of `docs/architecture.md`: `model` to `sampling`.
"""
