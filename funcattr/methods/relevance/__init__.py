"""Relevance: LRP and its kin, DeepLIFT, excitation backpropagation, and the books of conservation."""
