"""Projections: views computed from committed events. A projection can be thrown away and rebuilt."""
