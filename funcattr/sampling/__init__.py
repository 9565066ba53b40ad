"""Many passes: random draws, baselines, noise, and loops over samples in chunks of bounded memory.

Imports `attribution`.
"""
