"""Tools around models and methods: export as a program, batch norms folded into linear layers.

Imports `model`, `calls`, `rulebook`, `tape` and `attribution`.
"""
