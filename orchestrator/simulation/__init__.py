"""Whole conversations in virtual time, with faults drawn from a seed: users call `simulate()`."""
