"""Secrets: from systemd's credential files or the environment, never from the configuration."""

import os
import re
from pathlib import Path

from mira_stream.core.errors import Refusal

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}")
_DIGITS_MAX = 4
"""A name has hardly a digit; a key that stands where its name belongs has many, and must not be repeated."""
_NO_HEADER = re.compile(r"[^\x20-\x7e]")


def read_secret(name: str, key: str = "api_key_env") -> str:
    """The secret called `name`: the credential file of that name, else the environment variable.

    `key` is the setting that names it. Raises Refusal, which never holds the secret, not even where it was put in
    place of its name.
    """
    _refuse_no_name(name, key)
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
    if _NO_HEADER.search(value.strip()):
        raise Refusal(
            f"the secret {name} holds a line break or a character that is not printable ASCII",
            "it is sent in an HTTP header: give the key alone, on one line",
        )
    return value.strip()


def _refuse_no_name(name: str, key: str) -> None:
    if _NAME.fullmatch(name) and sum(map(str.isdigit, name)) <= _DIGITS_MAX:
        return
    raise Refusal(
        f"{key} does not hold the name of a secret; what it holds is not repeated, since it may be the secret itself",
        "write the name of an environment variable or of a systemd credential, such as vllm_api_key: letters, "
        f"'_', '-', '.' and at most {_DIGITS_MAX} digits",
    )
