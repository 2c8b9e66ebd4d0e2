"""The front door: one address before many replicas in many places."""
