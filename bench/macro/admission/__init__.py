"""Admission against modelled replicas in virtual time: goodput, latency, learning, the budget, disturbances."""
