"""Rewrites of a finished tape: batch norms folded into linear maps, activations joined to them.

Imports the tape's steps, `calls` and `rulebook`.
"""
