"""Several processes of one service on one machine (`orch serve --processes N`): what they share."""
