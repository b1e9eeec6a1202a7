"""What is fixed about the tokens that this service signs itself."""

from __future__ import annotations

OWN_ISSUER = "driftback"
"""`iss` of the tokens and login links."""
MINIMUM_SECRET_BYTES = 32
"""RFC 7518, section 3.2: an HS256 key is at least as long as the hash."""
