"""The vLLM client: requests, models, token counts, load."""
