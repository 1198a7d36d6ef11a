"""The way between processes: typed messages over ZeroMQ sockets on this machine."""
