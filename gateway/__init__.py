"""HTTP in, wire out: the only process that listens on the network."""
