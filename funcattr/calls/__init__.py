"""One recorded call of a torch function: its operation, its operands, its adjoint, and which tensors are saved for it.

Imports `errors` and `_torch` alone: a call knows nothing of models, rules or tapes.
"""
