"""The SQL history: the process that writes the history from the feeds, and the archiving and purging of sessions."""
