"""The information bottleneck: noise in place of features, and the bits that the decision needs."""
