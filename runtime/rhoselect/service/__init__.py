"""The gRPC side of a run: a server for a ``with`` block, who may call it, and how errors travel."""
