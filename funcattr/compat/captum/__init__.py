"""Captum's names: `from captum.attr import ...` becomes `from funcattr.compat.captum.attr import ...`."""

from . import attr as attr
