"""Embeddings that take vectors in place of token ids, as in Captum."""

import warnings
from typing import Any

import torch
from torch import Tensor, nn

from .assertions import asserting


class InterpretableEmbeddingBase(nn.Module):
    """Stands in a model for an embedding, and hands on the vectors that it is given.

    Args:
        embedding: The embedding.
        full_name: Its path in the model.
    """

    def __init__(self, embedding: nn.Module, full_name: str) -> None:
        super().__init__()
        self.num_embeddings = getattr(embedding, "num_embeddings", None)
        self.embedding_dim = getattr(embedding, "embedding_dim", None)
        self.embedding, self.full_name = embedding, full_name

    def forward(self, *inputs: Any, **kwargs: Any) -> Any:
        """The first input, as it is."""
        given = (*inputs, *kwargs.values())
        if not given:
            raise ValueError(f"{self.full_name}(): expected the vectors that stand for the tokens.")
        return given[0]

    def indices_to_embeddings(self, *inputs: Any, **kwargs: Any) -> Tensor:
        """The vectors of token ids."""
        return self.embedding(*inputs, **kwargs)


class TokenReferenceBase:
    """Sequences of one token that stands for nothing."""

    def __init__(self, reference_token_idx: int = 0) -> None:
        self.reference_token_idx = reference_token_idx

    def generate_reference(self, sequence_length: int, device: Any) -> Tensor:
        """The token `sequence_length` times. [sequence_length]"""
        return torch.full((sequence_length,), self.reference_token_idx, device=device)


@asserting
def configure_interpretable_embedding_layer(
    model: nn.Module, embedding_layer_name: str = "embedding"
) -> InterpretableEmbeddingBase:
    """Put an `InterpretableEmbeddingBase` in the place of a model's embedding, until it is removed again."""
    embedding = model.get_submodule(embedding_layer_name)
    if isinstance(embedding, InterpretableEmbeddingBase):
        raise ValueError(
            f"configure_interpretable_embedding_layer({embedding_layer_name!r}): it is configured already."
        )
    warnings.warn(
        "The embedding now takes vectors. Call remove_interpretable_embedding_layer(model, embedding) after use; "
        "funcattr's layer= attributes to an embedding without any change of the model.",
        stacklevel=3,
    )
    wrapped = InterpretableEmbeddingBase(embedding, embedding_layer_name)
    _put(model, embedding_layer_name, wrapped)
    return wrapped


def remove_interpretable_embedding_layer(model: nn.Module, interpretable_emb: InterpretableEmbeddingBase) -> None:
    """Put the embedding back in its place."""
    _put(model, interpretable_emb.full_name, interpretable_emb.embedding)


def _put(model: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, module)
