"""The embedded reference services: a small working agent behind the HTTP contracts, for a first call without set-up."""
