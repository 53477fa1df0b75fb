"""Whose webhook it is: the tenant one of whose secrets signed the body. There is no key beside it."""

import asyncio
import time
from collections.abc import Sequence

import structlog
from stripe import SignatureVerificationError, WebhookSignature

from quota.errors import NotFound, SignatureInvalid

TOLERANCE_S = 300
"""How old a delivery may be: as long as Stripe's own libraries take it. Older ones may have been recorded."""
MAX_HEADER_BYTES = 4_096
"""An instant, and a signature for each secret that is in force at Stripe: two while one is replaced."""
LOG_EVERY_S = 60.0
"""Whoever finds the address may send what he likes; the log tells of it once a minute."""

log = structlog.get_logger()


class StripeSignatures:
    """Knows every tenant's secrets."""

    def __init__(self, secrets: Sequence[tuple[str, str]]) -> None:
        self._secrets = secrets
        self._refused = 0
        self._logged_at = -LOG_EVERY_S

    def refuse_unknown(self) -> None:
        """NotFound if no tenant has a secret."""
        if not self._secrets:
            raise NotFound("there is nothing here until QUOTAGATE_STRIPE_WEBHOOK_SECRETS is set (docs/stripe.md)")

    async def tenant_of(self, body: bytes, headers: Sequence[bytes]) -> str:
        """The tenant whose secret signed these very bytes. SignatureInvalid."""
        # Beside the event loop: a body of the largest size takes each secret a fraction of a millisecond.
        tenant = await asyncio.to_thread(self._verified, body, headers)
        if tenant is None:
            self._tell()
            raise SignatureInvalid(
                "the header Stripe-Signature is no signature of this body by a secret in "
                f"QUOTAGATE_STRIPE_WEBHOOK_SECRETS within the last {TOLERANCE_S} s: compare it with the endpoint's "
                "signing secret in Stripe, send the body as it came, and look at the clock"
            )
        return tenant

    def _verified(self, body: bytes, headers: Sequence[bytes]) -> str | None:
        if len(headers) != 1 or len(headers[0]) > MAX_HEADER_BYTES or not headers[0].isascii():
            return None
        for tenant, secret in self._secrets:
            try:
                WebhookSignature.verify_header(body, headers[0].decode(), secret, TOLERANCE_S)
            except (SignatureVerificationError, UnicodeDecodeError):
                continue
            return tenant
        return None

    def _tell(self) -> None:
        self._refused += 1
        now = time.monotonic()
        if now - self._logged_at >= LOG_EVERY_S:
            log.warning("webhooks with a wrong or old signature were refused", count=self._refused)
            self._refused, self._logged_at = 0, now
