"""Conversations in SQL: SQLite by default, PostgreSQL by its URL."""
