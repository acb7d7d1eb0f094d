"""Projections: anything computed from committed events, and disposable."""
