"""An S3 server on loopback (moto), with made-up credentials; nothing leaves the machine."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any

import boto3
from moto.server import ThreadedMotoServer

from mira_stream.ports import ObjectStore
from mira_stream.source.store import open_store
from mira_stream.source.store_settings import StoreSettings

CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "nobody",
    "AWS_SECRET_ACCESS_KEY": "nothing",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_REGION": "us-east-1",
}
_numbers = count()


class S3Lake:
    """Buckets on a server, and a plain client to play the rest of the world with."""

    def __init__(self, endpoint: str) -> None:
        self.settings = StoreSettings(endpoint=endpoint, region="us-east-1", allow_http=True)
        self.client: Any = boto3.client(
            "s3",
            endpoint_url=endpoint,
            aws_access_key_id=CREDENTIALS["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
            region_name="us-east-1",
        )

    def new_bucket(self) -> str:
        """The name of a bucket that nobody else uses."""
        bucket = f"lake-{next(_numbers)}"
        self.client.create_bucket(Bucket=bucket)
        return bucket

    def store(self, bucket: str, prefix: str = "raw") -> ObjectStore:
        """The product's store over a prefix of it."""
        return open_store(f"s3://{bucket}/{prefix}", self.settings)

    def put(self, bucket: str, key: str, data: bytes) -> None:
        """Overwrite, as somebody else would; `key` is the whole key."""
        self.client.put_object(Bucket=bucket, Key=key, Body=data)


@contextmanager
def s3_lake() -> Iterator[S3Lake]:
    """A running server; the environment has credentials for it meanwhile."""
    before = {name: os.environ.get(name) for name in CREDENTIALS}
    os.environ.update(CREDENTIALS)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        lake = S3Lake(f"http://{host}:{port}")
        yield lake
        lake.client.close()
    finally:
        server.stop()
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
