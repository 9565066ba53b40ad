"""Tiny language models with random weights, and tokenizers made on the spot; nothing is downloaded."""

from functools import cache
from typing import Any

import torch
from torch import nn

SENTENCES = (
    "The quick brown fox jumps over the lazy dog. It was a sunny day, and nobody cared!",
    "A kitten is sleeping on the warm windowsill. The young cat takes a nap in the sun.",
    "Where is the capital of France? Paris is the capital; Berlin is not the capital of France.",
)
TEMPLATE = "{% for m in messages %}<s>{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}<s>assistant:"


@cache
def byte_level(size: int = 330) -> Any:
    """Byte-level pairs, as of GPT-2 and Llama 3: a space belongs to the word after it; it begins with <s>."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    specials = ["<pad>", "<s>", "</s>"]
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=specials, initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator(SENTENCES, trainer)
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    found = PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", bos_token="<s>", eos_token="</s>")
    found.chat_template = TEMPLATE
    return found


@cache
def word_pieces(end_only: bool = False) -> Any:
    """Word pieces, as of BERT: [CLS] in front and [SEP] behind; or only an end behind, as of T5."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece()
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    made.train_from_iterator(
        SENTENCES, trainers.WordPieceTrainer(vocab_size=120, special_tokens=specials, show_progress=False)
    )
    single = "$A [SEP]" if end_only else "[CLS] $A [SEP]"
    made.post_processor = processors.TemplateProcessing(single=single, special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "sep_token": "[SEP]", "mask_token": "[MASK]"}
    return PreTrainedTokenizerFast(tokenizer_object=made, cls_token="[CLS]", **names)


def built(kind: Any, config: Any) -> Any:
    """A model of a configuration, with weights large enough that tokens matter."""
    torch.manual_seed(0)
    model = kind(config)
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.3 if "embed" in name else 0.2)
    return model.double().eval()


def small(**more: Any) -> dict[str, Any]:
    """What the configurations of decoders have in common."""
    return {
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "vocab_size": 330,
        "max_position_embeddings": 64,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        **more,
    }


def llama(**more: Any) -> nn.Module:
    """Llama that says the next token."""
    from transformers import LlamaConfig, LlamaForCausalLM

    return built(LlamaForCausalLM, LlamaConfig(**small(num_key_value_heads=1, **more)))
