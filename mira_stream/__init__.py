"""mira_stream scores a live data lake of agent traces with MIRA student scorers, exactly once."""

__version__ = "0.1.0"
