"""Values and pure functions: stdlib and msgspec only; no loop, clock, chance, logging or I/O."""
