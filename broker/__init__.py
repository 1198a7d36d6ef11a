"""The one way between processes: the inference lane, doorbells and events; memory only."""
