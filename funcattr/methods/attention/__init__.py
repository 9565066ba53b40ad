"""Methods of attention weights: rollout, attention relevance, LeGrad, value zeroing."""
