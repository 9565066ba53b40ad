"""DeepLIFT: multipliers, the slopes of each call between the baseline and the input.

Imports `calls`, `rulebook` and the other rules.
"""
