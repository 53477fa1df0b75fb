"""Draws pictures for its users, as many as their plan allows. `KEY=… python3 drawing.py`, then POST /draw."""

import json
import os
import uuid
from http.client import HTTPConnection, HTTPException
from wsgiref.simple_server import make_server

QUOTAGATE, KEY = "127.0.0.1:8080", os.environ["KEY"]
PASSED_ON = ("Content-Type", "Retry-After", "RateLimit", "RateLimit-Policy")
answers = {}  # what was answered under which key; a table, in a service that is restarted now and then


def ask(path, body, key):
    """Status, headers and body of Quotagate's answer. It is asked twice: one key is charged once."""
    headers = {"Authorization": f"Bearer {KEY}", "Idempotency-Key": key, "Content-Type": "application/json"}
    for _ in range(2):
        connection = HTTPConnection(QUOTAGATE, timeout=1)
        try:
            connection.request("POST", path, json.dumps(body), headers)
            answer = connection.getresponse()
            found = answer.status, [(name, answer.headers[name]) for name in PASSED_ON if answer.headers[name]]
            body_of_answer = answer.read()
            if answer.status != 503:
                return *found, body_of_answer
        except (OSError, HTTPException):
            pass  # nobody knows whether it was charged: under the same key it may be asked again
        finally:
            connection.close()
    return 503, [("Retry-After", "1")], b"We cannot count at the moment. Try again, with the same Idempotency-Key.\n"


def draw(text):
    if not text:
        raise ValueError("nothing to draw")
    return f"<svg xmlns='http://www.w3.org/2000/svg'><text y='20'>{text}</text></svg>\n".encode()


def answer_to(user, key, text):
    status, headers, charged = ask("/v1/consume", {"subject": user, "metric": "pictures"}, key)
    if status != 200:
        return status, headers, charged  # a 429 says how much is left, when it begins anew, and which plan has more
    try:
        return 200, [("Content-Type", "image/svg+xml")], draw(text)
    except ValueError as error:
        ask("/v1/refunds", {"receipt": json.loads(charged)["receipt"]}, f"{key}-refund")
        return 422, [("Content-Type", "text/plain")], f"{error}; it costs nothing\n".encode()


def application(environ, start_response):
    user = environ.get("HTTP_X_USER", "nobody")  # whoever is logged in
    key = environ.get("HTTP_IDEMPOTENCY_KEY") or str(uuid.uuid4())
    text = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0)).decode()
    status, headers, body = answers.get((user, key)) or answer_to(user, key, text)
    if status in {200, 422}:
        answers[user, key] = status, headers, body  # a repeat gets the same, and is not charged again
    start_response(f"{status} ", headers)
    return [body]


if __name__ == "__main__":
    make_server("127.0.0.1", 9000, application).serve_forever()
