"""Workloads and a load generator for any OpenAI-compatible server."""
