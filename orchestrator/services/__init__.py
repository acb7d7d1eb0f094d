"""Services: what a conversation asks of the outside world."""
