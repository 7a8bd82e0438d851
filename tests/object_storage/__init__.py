"""An S3 server in memory, on loopback, that fails as object storages do."""

from tests.object_storage.server import ObjectStorage

__all__ = ["ObjectStorage"]
