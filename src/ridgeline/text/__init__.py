"""Tokenizers, chat templates and incremental detokenising; no torch."""
