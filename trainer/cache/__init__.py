"""What the frozen encoders make of each caption, computed once and stored in shards: targets, lengths, and the output
of the frozen layers. It hands on `Cache`, with the closed-form ridge map that its sums give."""

from .budget import both_fit, gigabytes
from .making import FEW, Making
from .positions import keep, shares
from .shards import Cache, Shard, sent
from .stage import build, run
from .standard import standard_teacher
