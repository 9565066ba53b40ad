"""The formats of shards' files."""

from collections.abc import Mapping

from .parquet import PARQUET
from .shard_format import ShardFormat
from .tensor_files import TENSORS

FORMATS: Mapping[str, ShardFormat] = {"parquet": PARQUET, "safetensors": TENSORS}
"""By the word of `run(files=...)`."""
