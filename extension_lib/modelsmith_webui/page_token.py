"""A token of this process for the page's own requests, which pass where the API wants a password."""

from __future__ import annotations

import secrets

# The page does not know the password of --api-auth.
PAGE_TOKEN = secrets.token_urlsafe(16)
