"""The OpenAPI document's schemas of jobs: what is asked for, and what is told of it."""

from gateway.openapi_answers import IDENTIFIER, INSTANT, TEXT, Schema, closed, or_null, reference

_SUBJECT = {"subject": or_null(IDENTIFIER)}
_WITH_SUBJECT = ("rebuild", "verify")
_ALONE = ("drain", "reconcile", "reset")
JOBS = (*_ALONE, *_WITH_SUBJECT, "replay", "simulate")
_RESULT: Schema = {
    "type": "object",
    "description": "Figures of the whole store; lists name subjects of the key's tenant alone",
    "additionalProperties": True,
}


def _forms() -> list[Schema]:
    alone = closed({"job": {"enum": list(_ALONE)}})
    of_subject = closed({"job": {"enum": list(_WITH_SUBJECT)}, **_SUBJECT}, "subject")
    replay = closed({"job": {"const": "replay"}, **_SUBJECT, "at": or_null(INSTANT)}, "subject", "at")
    stretch = {"catalog": reference("Catalog"), "from": INSTANT, "to": INSTANT}
    return [alone, of_subject, replay, closed({"job": {"const": "simulate"}, **stretch})]


def schemas() -> Schema:
    """By name."""
    return {
        "JobRequest": {"title": "JobRequest", "oneOf": _forms()},
        "Job": closed(
            {
                "id": {"type": "string", "format": "uuid"},
                "job": {"enum": list(JOBS)},
                "state": {"enum": ["queued", "running", "done", "failed"]},
                "progress": {"type": "number", "minimum": 0, "maximum": 1},
                "result": or_null(_RESULT),
                "error": or_null(TEXT),
            }
        ),
    }
