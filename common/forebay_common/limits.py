"""Quotas and bounds, each named once. Where a number is AWS's, it is from the Lambda quotas page."""

KIB = 1024
MIB = 1024 * KIB

# Lambda's quotas for a function.
SYNC_REQUEST_MAX_BYTES = 6_291_456
ASYNC_REQUEST_MAX_BYTES = 1_048_576
RESPONSE_MAX_BYTES = 6_291_556
ZIP_MAX_BYTES = 52_428_800
UNZIPPED_MAX_BYTES = 262_144_000
MANAGEMENT_REQUEST_MAX_BYTES = 70_167_211
ENVIRONMENT_MAX_BYTES = 4 * KIB
CLIENT_CONTEXT_MAX_BYTES = 3_583
LOG_TAIL_MAX_BYTES = 4 * KIB
TIMEOUT_DEFAULT_S = 3
TIMEOUT_MAX_S = 900
MEMORY_DEFAULT_MB = 128
MEMORY_MIN_MB = 128
MEMORY_MAX_MB = 10_240
NAME_MAX_CHARS = 64
ASYNC_AGE_MAX_S = 21_600
ASYNC_RETRIES_DEFAULT = 2

# Forebay's own bounds.
DESTINATION_URL_MAX_CHARS = 2_048
CODE_CHUNK_BYTES = MIB  # one larger value would stall every other call on the same Redis
CODE_TOTAL_MAX_BYTES = 2048 * MIB
PACKAGE_FILES_MAX = 65_535  # what a zip without extensions can hold; reading a directory of more would take seconds
PACKAGE_PATH_MAX_BYTES = KIB
PACKAGE_LINK_MAX_BYTES = KIB
CLAIM_CHECK_BYTES = 256 * KIB  # a payload above this travels under its own key, beside the queue
CLAIM_TTL_S = 3_600
RESULTS_MAX = 1_000  # ended events of which is known how they ended, for each version of a function
RESULTS_MAX_BYTES = 16 * MIB
RESULT_FRAME_MAX_BYTES = 64 * KIB  # a larger reply is kept without its payload
OUTBOX_MAX = 100_000  # ended events that wait for their destination; what is above is a dead letter
REPLY_FRAME_MAX_BYTES = CLAIM_CHECK_BYTES
SYNC_QUEUE_MAX = 1_000
ASYNC_QUEUE_MAX = 100_000
DEAD_LETTERS_MAX = 1_000
RESULT_RETENTION_S = 3_600  # how an event ended is kept for so long, unless the platform is set otherwise
RESULT_RETENTION_MIN_S = 60  # what is too old is looked for once a minute
RESULT_RETENTION_MAX_S = 14 * 86_400
IDEMPOTENCY_RETENTION_S = 86_400  # what was accepted under an idempotency key, likewise
IDEMPOTENCY_RETENTION_MAX_S = 365 * 86_400
DEAD_LETTER_TTL_S = 14 * 86_400  # from a function's last dead letter on
WAIT_DEFAULT_MS = 30_000
WAIT_MARGIN_MS = 10_000  # a function with a long timeout is waited for this much longer than its timeout
INIT_MIN_MS = 20_000  # to initialise; as long as its timeout where that is longer
MAX_INSTANCES_DEFAULT = 20
IDLE_DEFAULT_S = 60
LEASE_MS = 30_000
HEARTBEAT_S = 5
HEARTBEAT_TTL_S = 15
BLOCK_MS = 5_000
BATCH_MAX = 32
BATCH_HANDLER_MAX_MS = 0.5  # a handler whose moving average is below this may hold a batch
BATCH_WAIT_MAX_MS = 8.0  # which takes no longer than this

assert HEARTBEAT_TTL_S >= 3 * HEARTBEAT_S
assert LEASE_MS >= 2 * HEARTBEAT_TTL_S * 1000 - 1
assert BLOCK_MS < HEARTBEAT_TTL_S * 1000
