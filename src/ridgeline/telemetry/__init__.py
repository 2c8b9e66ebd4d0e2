"""Metric definitions, the step meter, and sliding windows."""
