"""The history in SQL: the process that keeps it, and what reads feeds, archives and purges."""
