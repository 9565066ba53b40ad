"""A packaged network, packaged images, and a tour of every method on them: `python -m funcattr demo`."""
