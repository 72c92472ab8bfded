"""A simulated vLLM replica, for demo, planning, tests and bench."""
