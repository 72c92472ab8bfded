"""The tunables of talking to replicas."""

from typing import Annotated

import msgspec


class ReplicaSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`[replica]`: how replicas are talked to."""

    connect_timeout_seconds: Annotated[
        float, msgspec.Meta(gt=0, description="Longest wait for a connection to a replica, in seconds.")
    ] = 10.0
    ca_file: Annotated[
        str | None,
        msgspec.Meta(
            description="File of certificates (PEM) that replicas with https:// may also be signed by; default: the "
            "system's authorities alone."
        ),
    ] = None
    lookup_timeout_seconds: Annotated[
        float,
        msgspec.Meta(
            gt=0, description="Longest wait for a replica's models, token count or metrics, in seconds."
        ),
    ] = 10.0
    keepalive_seconds: Annotated[
        float,
        msgspec.Meta(
            gt=0,
            description="How long an idle connection is kept, in seconds; below the server's own limit (vLLM: 5).",
        ),
    ] = 3.0
    dns_seconds: Annotated[
        int, msgspec.Meta(gt=0, description="How long a resolved host name is remembered, in seconds.")
    ] = 30
    idle_seconds: Annotated[
        float,
        msgspec.Meta(
            gt=0,
            description="Longest pause between two pieces of a streamed reply, in seconds; one step of a full engine "
            "takes at most a few.",
        ),
    ] = 120.0
    load_reports: Annotated[
        bool,
        msgspec.Meta(
            description="Ask replicas to say their load on each answer (ORCA), beside the looks at their metrics."
        ),
    ] = False
    reply_bytes_max: Annotated[
        int, msgspec.Meta(gt=0, description="Largest answer that is read from a replica, in bytes.")
    ] = 4 << 20
