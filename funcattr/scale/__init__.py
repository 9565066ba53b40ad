"""A method over a data set, in shards: runs that are described, go on where they stopped, and leave files.

Parquet files need pyarrow, the extra `scale`; safetensors files need nothing more.
"""

from .errors import AnotherRunError as AnotherRunError
from .errors import BrokenShardError as BrokenShardError
from .errors import ScaleError as ScaleError
from .errors import TooManyErrorsError as TooManyErrorsError
from .errors import WriteError as WriteError
from .image_folder import ImageFolder as ImageFolder
from .own import Own as Own
from .results import Results as Results
from .results import open as open
from .run import run as run
from .shard_format import Row as Row
