"""`mira-stream bench`: how much live replicas can do with a corpus, where their knee is, and what to set."""
