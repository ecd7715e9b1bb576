"""The options of `forebay up` as they are given; `up_options.py` says what becomes of them."""

from pathlib import Path
from typing import Annotated

import typer

from forebay_common import limits

Host = Annotated[str, typer.Option(help="Address to listen on.")]
Port = Annotated[int, typer.Option(help="Port to listen on; 0 takes any free one.")]
DataDir = Annotated[
    Path | None,
    typer.Option(help="Where functions, events and logs are kept.", show_default="~/.local/share/forebay"),
]
RedisUrl = Annotated[
    str | None,
    typer.Option(help="Use this Redis instead of the embedded Valkey: redis://HOST:PORT/0, redis+sentinel://…"),
]
Durability = Annotated[
    str,
    typer.Option(help="Where an accepted event is: process (in Redis), fsync (on its disk), replica."),
]
AsyncRetryDelays = Annotated[str, typer.Option(help="Seconds before each retry of a failed async event.")]
ResultRetention = Annotated[
    int,
    typer.Option(
        help="Seconds for which it is known how an async event ended.",
        min=limits.RESULT_RETENTION_MIN_S,
        max=limits.RESULT_RETENTION_MAX_S,
    ),
]
IdempotencyRetention = Annotated[
    int,
    typer.Option(
        help="Seconds for which an Idempotency-Key stands for its first call.",
        min=1,
        max=limits.IDEMPOTENCY_RETENTION_MAX_S,
    ),
]
Watch = Annotated[
    Path | None,
    typer.Option(
        help="Deploy every sub-folder and .py file of this folder, again at each save.",
        exists=True,
        file_okay=False,
    ),
]
AllowedHost = Annotated[
    list[str] | None, typer.Option(help="A Host name beside loopback's that requests may carry (repeatable).")
]
Auth = Annotated[
    str | None,
    typer.Option(
        help="required: calls need a key or a signature; off: they need none.",
        show_default="required beyond loopback",
    ),
]
AllowRemote = Annotated[
    bool, typer.Option("--allow-remote", help="With --auth off: let whoever reaches it run code here.")
]
OutboundAllow = Annotated[
    list[str] | None,
    typer.Option(help="A host, address or CIDR that is not public and that destinations may be at (repeatable)."),
]
OutboundAllowHttp = Annotated[
    bool, typer.Option("--outbound-allow-http", help="Let destinations be http:// URLs, too.")
]
LogLevel = Annotated[str, typer.Option(help="What the platform logs: debug, info, warning or error.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Show the platform's log, not warnings only.")]
