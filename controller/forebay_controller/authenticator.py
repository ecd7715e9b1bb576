"""Whose request a management call is, and what that allows.

A credential is good for management when its scopes hold `manage` and its namespaces the one that the request means;
what it may see and change there are the functions that its patterns name. The results of invocations, and cancelling
them, are their callers' business: for those it is the scope `invoke`. Without an authenticator (one machine, loopback)
everybody may do everything.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256

from starlette.types import Scope

from forebay_common import auth_errors, sigv4
from forebay_common.auth_errors import AuthError
from forebay_common.credentials import INVOKE, MANAGE, Credential, Presented, matches, present
from forebay_common.spec import FunctionSpec


class Authenticator:
    """Checks requests against the records in `credentials` (by access key id), which its owner keeps current."""

    def __init__(
        self, credentials: Mapping[str, Credential], *, region: str, clock: Callable[[], float] = time.time
    ) -> None:
        self._credentials = credentials
        self._region = region
        self._clock = clock

    def present(self, headers: Mapping[bytes, bytes]) -> Presented:
        """Whose request it is by its headers (as `sigv4.joined` gives them). Raises AuthError.

        A signature is still to be checked, by `check`: it covers the body, which nobody reads for a stranger.
        """
        return present(headers, self._credentials.get, region=self._region, now_s=self._clock())

    @staticmethod
    def check(presented: Presented, scope: Scope, headers: Mapping[bytes, bytes], body: bytes) -> None:
        """Hold a signature against the request as it was sent. Raises AuthError."""
        request = sigv4.Request(scope["method"], scope["raw_path"], scope["query_string"], headers)
        presented.check(request, lambda: sha256(body).hexdigest())


@dataclass(frozen=True, slots=True)
class Grant:
    """What a request may do in one namespace; `credential` None: everything, since nobody is asked for one."""

    namespace: str
    credential: Credential | None = None

    def allows_some(self, scope: str) -> bool:
        """Whether the request may do what takes a scope (`manage`, `invoke`) to some functions here."""
        credential = self.credential
        return credential is None or (scope in credential.scopes and matches(credential.namespaces, self.namespace))

    def allows(self, function: str) -> bool:
        """Whether the request may manage this function, existing or not."""
        return self.credential is None or self.credential.allows(MANAGE, self.namespace, function)

    def allows_invoking(self, function: str) -> bool:
        """Whether the request may invoke this function, and so see and cancel its invocations."""
        return self.credential is None or self.credential.allows(INVOKE, self.namespace, function)

    def may_send_to(self, function: str) -> bool:
        """Whether the request may have events sent to this function, existing or not: it may manage it, or call it."""
        return self.allows(function) or self.allows_invoking(function)

    def allowed(self, functions: list[FunctionSpec]) -> list[FunctionSpec]:
        """Those of some functions that the request may see."""
        return [spec for spec in functions if self.allows(spec.name)]

    def denied(self, action: str, resource: str) -> AuthError:
        """The error for what it does not allow: an operation's name, and an ARN or `*`."""
        return auth_errors.access_denied(self.credential.access_key_id if self.credential else "", action, resource)

    def denied_text(self, function: str = "", *, scope: str = MANAGE) -> str:
        """The same for people who use /v1."""
        assert self.credential is not None
        credential, what = self.credential, f"the function {function}" if function else "functions"
        has = [", ".join(given) or "none" for given in (credential.scopes, credential.namespaces, credential.functions)]
        return (
            f"The key {credential.access_key_id} may not {scope} {what} in the namespace {self.namespace}: "
            f"its scopes are {has[0]}, its namespaces {has[1]}, its functions {has[2]}"
        )
