"""The durable write-ahead cache of outcomes, plans and progress."""
