"""What lets the public TUF conformance suite drive the verifier that agents use."""
