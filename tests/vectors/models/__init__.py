"""Golden vectors: the bytes of every format, kept so that no change goes unseen."""
