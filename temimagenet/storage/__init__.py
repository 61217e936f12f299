"""How libraries are kept: HDF5 shards with a sidecar each, a Parquet catalogue and a manifest of checksums."""

from temimagenet.storage.collection import read_collection
from temimagenet.storage.library import (
    ShardTask,
    finish_library,
    plan_library,
    read_catalogue,
    render_shard,
    shard_is_done,
    verify_library,
)
from temimagenet.storage.repack import repack_library
from temimagenet.storage.shard import SCHEMA, Shard, write_shard

__all__ = [
    "SCHEMA",
    "Shard",
    "ShardTask",
    "finish_library",
    "plan_library",
    "read_catalogue",
    "read_collection",
    "render_shard",
    "repack_library",
    "shard_is_done",
    "verify_library",
    "write_shard",
]
