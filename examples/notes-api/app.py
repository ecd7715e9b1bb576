"""A small HTTP API: routes, status codes, headers. Notes live in the instance's memory, so they go with it.

    forebay deploy notes examples/notes-api --max-instances 1
    curl -i localhost:8480/fn/notes/notes -d '{"text": "buy milk"}'
    curl -i localhost:8480/fn/notes/notes/1
    curl -i -X DELETE localhost:8480/fn/notes/notes/1
"""

import base64
import json

notes = {}


def handler(event, context):
    method = event["requestContext"]["http"]["method"]
    parts = [part for part in event["rawPath"].split("/") if part]
    if parts == ["notes"] and method == "GET":
        return answer(200, list(notes.values()))
    if parts == ["notes"] and method == "POST":
        return create(body_of(event))
    if len(parts) == 2 and parts[0] == "notes" and parts[1] in notes:
        if method == "GET":
            return answer(200, notes[parts[1]])
        if method == "DELETE":
            del notes[parts[1]]
            return {"statusCode": 204}
        return answer(405, {"error": f"{method} is not for a note"})
    return answer(404, {"error": "there is nothing here"})


def create(body):
    try:
        text = json.loads(body)["text"]
    except (ValueError, KeyError, TypeError):
        return answer(400, {"error": 'send {"text": "..."}'})
    note = {"id": str(len(notes) + 1), "text": text}
    notes[note["id"]] = note
    return answer(201, note, {"Location": f"notes/{note['id']}"})


def body_of(event):
    body = event.get("body") or ""
    return base64.b64decode(body) if event.get("isBase64Encoded") else body


def answer(status, document, headers=None):
    return {
        "statusCode": status,
        "headers": {"Content-Type": "application/json", **(headers or {})},
        "body": json.dumps(document),
    }
