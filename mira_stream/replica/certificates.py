"""Which authorities vouch for a replica's certificate; none is taken on trust."""

import ssl

from mira_stream.core.errors import Refusal


def trusted(ca_file: str | None) -> ssl.SSLContext | bool:
    """What certificates are verified with: the system's authorities, and those in `ca_file`. Raises Refusal."""
    if ca_file is None:
        return True
    context = ssl.create_default_context()
    try:
        context.load_verify_locations(ca_file)
    except OSError as error:  # an SSLError is one
        why = "it holds no certificate" if isinstance(error, ssl.SSLError) else error.strerror
        raise Refusal(
            f"[replica] ca_file {ca_file} cannot be read: {why}", "give a file of certificates in PEM"
        ) from error
    return context
