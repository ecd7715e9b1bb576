"""A function with a dependency: `forebay deploy` installs requirements.txt into its package."""

import humanize


def handler(event, context):
    size = int((event.get("queryStringParameters") or event).get("bytes", 1_500_000))
    return {"bytes": size, "reads": humanize.naturalsize(size)}
