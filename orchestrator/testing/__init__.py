"""Helpers for tests of conversations: ours and users'."""
