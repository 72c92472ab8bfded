"""Objects in, lines out: stores, discovery, codecs, framing."""
