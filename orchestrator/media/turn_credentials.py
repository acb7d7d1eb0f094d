"""Makes credentials for a TURN server that expire, as the "TURN REST API" describes them."""

import base64
import hmac
import time

LIFE_S = 24 * 3600
"""How long credentials are valid: as long as a conversation may last."""


def turn_credentials(secret: str, name: str) -> tuple[str, str]:
    """Return user name and password: the time of expiry with `name`, and its HMAC-SHA1 under the secret that the TURN
    server knows (coturn's static-auth-secret). SHA-1 is what TURN servers expect there; as a MAC it is not broken.
    """
    username = f"{int(time.time()) + LIFE_S}:{name}"
    return username, base64.b64encode(hmac.digest(secret.encode(), username.encode(), "sha1")).decode()
