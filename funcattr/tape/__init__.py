"""The tape: the recorder notes the calls of a forward pass, and the walk pulls cotangents back through them.

Imports `model`, `calls`, `rulebook` and `rules`.
"""
