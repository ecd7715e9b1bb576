def handler(event, context):
    """Says hello; the name comes from the event, or from the query when called over HTTP."""
    query = event.get("queryStringParameters") or {}
    name = event.get("name") or query.get("name") or "World"
    print(f"saying hello to {name}")
    return f"Hello {name}"
