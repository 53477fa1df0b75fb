"""After a change of a subject's terms: Redis is told, and the change is made an entry at once."""

import structlog

from gateway.admission import Admission
from ledger import notices
from ledger.store import Store
from quota.errors import QuotagateError

log = structlog.get_logger()


async def tell_terms(
    store: Store, admission: Admission, tenant: str, subject: str, *, announcement: int, request_id: str
) -> None:
    """Tells Redis that the subject's terms have changed, and looks at each account that is to have an entry of it.

    CountersUnavailable when Redis does not hear; the change is kept, and a worker will tell it. A look that fails is no
    failure of the change: it is in force, and a worker writes the entry.
    """
    await admission.announce(tenant, subject)
    try:
        metrics = await store.run(tenant, notices.told, announcement, tenant, subject)
        if metrics:
            await admission.look(tenant, subject, request_id, metrics)
    except QuotagateError as error:
        log.warning("a change becomes an entry later", tenant=tenant, subject=subject, reason=str(error))
