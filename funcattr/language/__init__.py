"""What a language model read to say what it says: from a model, its tokenizer and a text to words with numbers."""

from .explain import explain as explain
from .explain import explain_all as explain_all
from .explanation import Explanation as Explanation
