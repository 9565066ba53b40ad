"""Relevance of tokens in Hugging Face models: low precision, either attention, ids or embeddings."""

from typing import Any

import pytest
import torch
from torch import Tensor

import funcattr

from .contract import assert_equal
from .zoo import CASES, Case

LANGUAGE = [c for c in CASES if c.key == "inputs_embeds" and "next" not in c.name]
SDPA = [c for c in LANGUAGE if c.name.endswith("_sdpa")]

pytestmark = pytest.mark.filterwarnings("ignore:.*padding tokens in `inputs_embeds`.*")
each_method = pytest.mark.parametrize("method", ["attnlrp", "cp_lrp"])


def _relevance(c: Case, method: str, dtype: torch.dtype = torch.float64) -> Tensor:
    (x,) = c.inputs(dtype)
    return getattr(funcattr, method)(c.build(dtype), {"inputs_embeds": x}, 1, kwargs=c.kwargs())["inputs_embeds"]


def test_there_are_language_models_of_many_families() -> None:
    families = {c.name.rpartition("_")[0] for c in LANGUAGE}
    assert families >= {"bert", "gpt2", "llama", "qwen2", "qwen3", "gemma3", "mixtral", "qwen2_moe"}


@each_method
@pytest.mark.parametrize("c", LANGUAGE, ids=repr)
def test_bfloat16_is_finite_and_near_float64(c: Case, method: str) -> None:
    low, exact = _relevance(c, method, torch.bfloat16), _relevance(c, method)
    assert low.dtype == torch.bfloat16
    assert low.isfinite().all()
    if "moe" not in c.name and "mixtral" not in c.name:  # there rounding may send a token to another expert
        cosine = torch.nn.functional.cosine_similarity(low.double().flatten(), exact.flatten(), dim=0)
        assert cosine > 0.9


@each_method
@pytest.mark.parametrize("c", SDPA, ids=repr)
def test_eager_and_fused_attention_agree(c: Case, method: str) -> None:
    eager = next(e for e in LANGUAGE if e.name == c.name.replace("_sdpa", "_eager"))
    # The eager softmax of these models is in float32.
    assert_equal(_relevance(c, method), _relevance(eager, method), tolerance=1e-5)


@each_method
@pytest.mark.parametrize("c", LANGUAGE, ids=repr)
def test_the_embedding_site_equals_inputs_embeds(c: Case, method: str) -> None:
    model: Any = c.build()
    embedding = model.get_input_embeddings()
    site = next(n for n, m in model.named_modules() if m is embedding)
    ids = torch.tensor([[3, 1, 4, 1], [5, 9, 2, 6]])
    explain = getattr(funcattr, method)
    at_site = explain(model, ids, 1, layer=site)
    with torch.no_grad():
        embeds = funcattr.read(model, site)(ids)[1][site]
    at_input = explain(model, {"inputs_embeds": embeds}, 1)["inputs_embeds"]
    assert at_site.shape == (2, 4, embeds.shape[-1])
    assert_equal(at_site, at_input, tolerance=1e-5 if c.in_float32 else 1e-9)
