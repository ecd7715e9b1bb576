"""The environment a handler process gets: Lambda's own variables and the user's (pure).

Names and values are those of the Lambda developer guide, "Defined runtime environment variables".
"""

from forebay_common.names import LATEST
from forebay_common.spec import FunctionSpec

RESERVED = frozenset({
    "_HANDLER", "_X_AMZN_TRACE_ID", "AWS_DEFAULT_REGION", "AWS_REGION", "AWS_EXECUTION_ENV",
    "AWS_LAMBDA_FUNCTION_NAME", "AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "AWS_LAMBDA_FUNCTION_VERSION",
    "AWS_LAMBDA_INITIALIZATION_TYPE", "AWS_LAMBDA_LOG_GROUP_NAME", "AWS_LAMBDA_LOG_STREAM_NAME",
    "AWS_LAMBDA_RUNTIME_API", "LAMBDA_TASK_ROOT", "LAMBDA_RUNTIME_DIR",
})  # fmt: skip
"""Names a function cannot set (CreateFunction answers InvalidParameterValueException on AWS).

AWS reserves its access keys, too, and sets them from the function's role. Here they open this platform alone, so a
function that uses AWS brings its own.
"""

_PLACEHOLDER_KEYS = {"AWS_ACCESS_KEY_ID": "forebay", "AWS_SECRET_ACCESS_KEY": "forebay", "AWS_SESSION_TOKEN": "forebay"}

TASK_ROOT = "/var/task"
RUNTIME_DIR = "/var/runtime"


def handler_environment(
    spec: FunctionSpec,
    *,
    instance_id: str,
    region: str,
    gateway_url: str,
    task_root: str,
    runtime_dir: str,
    tmp_dir: str,
    access_key: tuple[str, str] | None = None,
) -> dict[str, str]:
    """The whole environment of a handler process.

    The user's variables win over what Lambda lets them set (TZ, PATH, …) and never over the reserved ones.
    `gateway_url` makes boto3 inside a function call the platform's other functions, with `access_key` (id and secret)
    where the platform asks for one, else with placeholders, since clients refuse to sign without any. A function with
    AWS keys of its own gets neither: half of a pair, or a session token with another's, would spoil them.
    """
    settable = {
        "AWS_ENDPOINT_URL_LAMBDA": gateway_url,
        "HOME": tmp_dir,
        "LANG": "C.UTF-8",
        "PATH": "/var/lang/bin:/usr/local/bin:/usr/bin:/bin:/opt/bin",
        "PYTHONPATH": runtime_dir,
        "TMPDIR": tmp_dir,
        "TZ": ":UTC",
    }
    reserved = {
        "AWS_DEFAULT_REGION": region,
        "AWS_REGION": region,
        "AWS_EXECUTION_ENV": f"AWS_Lambda_{spec.runtime}",
        "AWS_LAMBDA_FUNCTION_NAME": spec.name,
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(spec.memory_mb),
        "AWS_LAMBDA_FUNCTION_VERSION": LATEST,
        "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
        "AWS_LAMBDA_LOG_GROUP_NAME": f"/aws/lambda/{spec.name}",
        "AWS_LAMBDA_LOG_STREAM_NAME": instance_id,
        "LAMBDA_TASK_ROOT": task_root,
        "LAMBDA_RUNTIME_DIR": runtime_dir,
        "_HANDLER": spec.handler,
    }
    own = spec.env or {}
    keys = _PLACEHOLDER_KEYS if access_key is None else dict(zip(_PLACEHOLDER_KEYS, access_key, strict=False))
    if own.keys() & _PLACEHOLDER_KEYS.keys():
        keys = {}
    return {**settable, **keys, **own, **reserved}
