"""One file per verb: the public Python API."""
