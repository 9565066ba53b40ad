"""Tools around models and methods: what holds for a model, export as a program, batch norms folded.

Imports `model`, `calls`, `rulebook`, `rules`, `tape` and `attribution`.
"""
