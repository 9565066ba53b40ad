"""Attribution: a question becomes a cotangent at the output, and the cotangent an attribution at the root.

Imports `model`, `rulebook`, `rules` and `tape`; `attribute` is the door to all of it.
"""
