"""The effects: what carries out committed commands, and reports results as events."""
