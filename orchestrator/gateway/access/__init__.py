"""Who may come in: tokens, the keys that they are checked with, and what a request shows of them."""
