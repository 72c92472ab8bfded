"""Secrets: from systemd's credential files or the environment, never from the configuration."""

import os
from pathlib import Path

from mira_stream.core.errors import Refusal


def read_secret(name: str) -> str:
    """The secret called `name`: the credential file of that name, else the environment variable. Raises Refusal."""
    folder = os.environ.get("CREDENTIALS_DIRECTORY", "")
    file = Path(folder) / name
    try:
        value = file.read_text("utf-8") if folder and file.is_file() else os.environ.get(name, "")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise Refusal(f"cannot read the secret {name} from {file}: {reason}", "look at that file") from error
    if not value.strip():
        raise Refusal(
            f"the secret {name} is not there",
            f"set the environment variable {name}, or give systemd LoadCredential={name}:/path/to/file",
        )
    return value.strip()
