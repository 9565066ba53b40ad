"""The errors and warnings of the package's own; wrong values and kinds are ValueError and TypeError."""

import difflib
import sys
import warnings
from collections.abc import Iterable
from pathlib import Path

import torch

_INSIDE = (str(Path(__file__).parent), str(Path(torch.__file__).parent))


LOOK = "funcattr.verify(model, x, target) says what else holds for this model."
"""Ends the errors and warnings that a user may not be able to judge alone."""


class FuncattrError(Exception):
    """Base of every error that is about what funcattr can or cannot see of a model."""


class UnknownSiteError(FuncattrError, ValueError):
    """A site was asked for that the model does not have, or that this call did not reach."""


class UnsupportedOperationError(FuncattrError, NotImplementedError):
    """The model calls something that the rulebook has no rule for, or that the recorder cannot see through."""


class RunAgainError(UnsupportedOperationError):
    """Autograd would run a part of the model again, without what the call does there; on record nothing runs again."""


class UntrackedPathError(FuncattrError, RuntimeError):
    """The output does not depend on the root by any path that can be differentiated."""


class AliasedWriteError(FuncattrError, RuntimeError):
    """A value is read that was written in place: through another view, or between a call and its pullback.

    Or a write in place runs over what it reads itself, so that its result depends on the order of its writes.
    """


class ConvergenceError(FuncattrError, RuntimeError):
    """An iteration ended before its result was there."""


def unknown_site(call: str, name: str, sites: Iterable[str]) -> UnknownSiteError:
    """The error for a site that does not exist (or was not reached), with the closest names."""
    known = list(dict.fromkeys(s for s in sites if s))
    if name in known:
        return UnknownSiteError(
            f"{call}: the site {name!r} exists, but this call of the model did not reach it. "
            "Name a module that the forward pass calls."
        )
    closest = difflib.get_close_matches(name, known, n=3, cutoff=0.4) or known[:3]
    listed = ", ".join(repr(s) for s in closest) or "none, the model marks no site"
    return UnknownSiteError(
        f"{call}: no such site {name!r}. Closest: {listed}. List them with functionalize(model).sites."
    )


def warn(message: str) -> None:
    """Warn at the line of the user's that called the package, however deep inside of it (or of torch) this is."""
    frame, depth = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_INSIDE):
        frame, depth = frame.f_back, depth + 1
    warnings.warn(message, stacklevel=depth)
