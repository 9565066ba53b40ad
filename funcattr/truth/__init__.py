"""Which map to believe, measured: every method by every measure on three networks, `python -m funcattr truth`."""
