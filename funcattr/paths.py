"""Paths of integrated gradients: other ways to the input than the straight line."""

from .methods.paths.blur import blur as blur
from .methods.paths.guided import guided as guided
from .methods.paths.idgi import idgi as idgi
