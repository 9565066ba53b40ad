"""Integrals along the line from a baseline to the input: integrated and expected gradients, conductance."""
