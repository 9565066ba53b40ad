"""Rewrites of a tape: batch norms folded into linear maps, activations joined to them, functions that are written out.

Imports the tape's steps, `calls` and `rulebook`.
"""
