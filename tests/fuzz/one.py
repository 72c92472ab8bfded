"""One target under atheris; libFuzzer's own options follow its name. Started by `tests.fuzz`."""

import sys

import atheris

# Not its hook for patterns, whose stand-ins for them cannot do what ours do.
atheris.enabled_hooks.add("str")
with atheris.instrument_imports(include=["mira_stream"]):
    from mira_stream.source import codec
    from tests.fuzz.targets import TARGETS

# Bombs are found at a few megabytes just as well, and much sooner.
codec.RATIO_FLOOR_BYTES = 4 << 20


def main() -> None:
    """Run until an option of libFuzzer ends it, or something is found."""
    target = TARGETS[sys.argv[1]]
    atheris.Setup([sys.argv[0], *sys.argv[2:]], target)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
