"""Extremal perturbation: a search for the smooth mask of a given area that keeps most of the output."""
