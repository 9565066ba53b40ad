"""A model as a pure function with named sites: copied for a call, read, edited, refused where it hides operations.

Imports `batch`, `errors` and `_torch` alone.
"""
