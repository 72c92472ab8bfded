"""A lab on an S3 server: lake and scores are prefixes of one bucket."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tests.e2e.harness import Lab
from tests.fakes.s3_server import S3Lake


class Bucket(Lab):
    """A lab whose lake and scores are prefixes of a bucket; its configuration stays in a folder."""

    def __init__(self, folder: Path, s3: S3Lake) -> None:
        super().__init__(folder)
        self.s3 = s3
        self.name = s3.new_bucket()

    def land(self, key: str, data: bytes) -> None:
        self.s3.put(self.name, f"raw/{key}", data)

    def configure_s3(
        self, urls: list[str], *, endpoints: Mapping[str, str] | None = None, **sections: Any
    ) -> None:
        """As `configure`, with both ends in the bucket; `endpoints` are other ones for `source` or `sink`."""
        for end, prefix in (("source", "raw"), ("sink", "scores")):
            endpoint = (endpoints or {}).get(end, self.s3.settings.endpoint)
            sections[end] = {"uri": f"s3://{self.name}/{prefix}"} | sections.get(end, {})
            sections[f"{end}.store"] = {"endpoint": endpoint, "region": "us-east-1", "allow_http": True}
        self.configure(urls, **sections)

    def segments(self) -> Iterator[tuple[str, bytes]]:
        listed = self.s3.client.list_objects_v2(Bucket=self.name, Prefix="scores/source=").get("Contents", [])
        for key in (entry["Key"] for entry in listed):
            yield key, self.s3.client.get_object(Bucket=self.name, Key=key)["Body"].read()
