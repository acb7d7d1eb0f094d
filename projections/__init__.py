"""Projections: views computed from committed events. They can be thrown away and rebuilt."""
