"""Schema changes, one numbered file each, run once before the services."""
