"""Effects: the code that carries out committed commands, and reports their results as events."""
