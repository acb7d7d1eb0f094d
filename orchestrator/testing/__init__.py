"""Helpers for testing conversations, for this project's tests and for its users' tests."""
