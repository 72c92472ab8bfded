"""The way of a record, stage by stage; knows ports only."""
