"""Architectures, weight files, sampling."""
