"""A rulebook: the table that says which call gets which rule or action.

Imports `calls`.
"""
