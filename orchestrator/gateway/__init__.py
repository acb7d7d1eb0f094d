"""The gateway: where browsers and terminals connect."""
