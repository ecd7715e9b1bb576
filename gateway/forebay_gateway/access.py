"""Who may call what, where credentials are required: the check of a request against the access keys in memory."""

import time
from collections import Counter
from collections.abc import Callable, Mapping
from hashlib import sha256

from forebay_common import auth_errors, sigv4
from forebay_common.auth_errors import AuthError
from forebay_common.credentials import EVERY, INVOKE, MANAGE, Credential, Presented, named_in, present
from forebay_common.routing import RoutingEntry
from forebay_gateway import lambda_errors
from forebay_gateway.guard import Rule
from forebay_gateway.lambda_errors import Refusal

PUBLIC = "none"
"""A function's `auth` when anybody may call it."""
NO_BODY_SHA256 = sha256(b"").hexdigest()

_RULES = {
    "MissingAuthenticationTokenException": Rule.AUTHORIZATION_MISSING,
    "UnrecognizedClientException": Rule.KEY_UNKNOWN,
    "IncompleteSignatureException": Rule.SIGNATURE_WRONG,
    "InvalidSignatureException": Rule.SIGNATURE_WRONG,
    "AccessDeniedException": Rule.ACCESS_DENIED,
    "ServiceException": Rule.SIGNING_KEY_MISSING,
}


class Access:
    """The rules for one gateway. `find` gives an access key by its id; `refusals` counts whom they keep out."""

    def __init__(
        self,
        find: Callable[[str], Credential | None],
        region: str,
        refusals: Counter[Rule],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._find = find
        self._region = region
        self._refusals = refusals
        self._clock = clock

    def present(self, headers: Mapping[bytes, bytes]) -> Presented:
        """Whose request it is, from its headers (each name once) alone. Raises Refusal.

        Done before the body is read: who has no access key here makes the gateway read nothing.
        """
        try:
            return present(headers, self._find, region=self._region, now_s=self._clock())
        except AuthError as error:
            raise self._refusal(error) from None

    def check_invoke(
        self, presented: Presented, request: sigv4.Request, body: bytes, *, namespace: str, name: str, arn: str
    ) -> None:
        """Whether the request may invoke a function. Raises Refusal.

        The signature comes before the rights: what a key may do is told to its owner only.
        """
        try:
            presented.check(request, lambda: sha256(body).hexdigest())
            if not presented.credential.allows(INVOKE, namespace, name):
                raise auth_errors.access_denied(presented.credential.access_key_id, "InvokeFunction", arn)
        except AuthError as error:
            raise self._refusal(error) from None

    def check_process(self, request: sigv4.Request) -> None:
        """Whether a request without a body may see what concerns the whole installation: metrics, documentation.

        That takes a key that manages everything. Raises Refusal.
        """
        presented = self.present(request.headers)
        try:
            presented.check(request, lambda: NO_BODY_SHA256)
            if not presented.credential.allows(MANAGE, EVERY):
                raise auth_errors.access_denied(presented.credential.access_key_id, "GetAccountSettings", EVERY)
        except AuthError as error:
            raise self._refusal(error) from None

    def secret_headers(self, headers: Mapping[bytes, bytes]) -> frozenset[bytes]:
        """Names of the headers that carry one of our access keys: no function may see them.

        A public function is not asked for a key, and yet a client may send it one.
        """
        return named_in(headers, self._find)

    def _refusal(self, error: AuthError) -> Refusal:
        self._refusals[_RULES[error.error_type]] += 1
        return lambda_errors.unauthenticated(error)


def needs_credential(entry: RoutingEntry | None) -> bool:
    """Whether a call of a function needs an access key; of one that is not known here it does."""
    return entry is None or entry.auth != PUBLIC
