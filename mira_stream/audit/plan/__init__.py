"""`mira-stream plan`: what a corpus will take, from a sample of it and a model of the replicas."""
