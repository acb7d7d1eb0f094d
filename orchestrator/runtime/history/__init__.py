"""The history in SQL: the process that reads feeds and keeps the history; archiving and purging of sessions."""
