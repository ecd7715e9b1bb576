"""The access keys in memory, by id; `table.py` keeps them fresh."""

from forebay_common import logs
from forebay_common.credentials import Credential

_log = logs.get(__name__)


class CredentialTable:
    """All access keys of the installation. `seen` once there was any: a platform without a key lets nobody in."""

    def __init__(self) -> None:
        self.seen = False
        self._credentials: dict[str, Credential] = {}

    def find(self, access_key_id: str) -> Credential | None:
        """An access key by its id."""
        return self._credentials.get(access_key_id)

    def put(self, access_key_id: str, data: bytes) -> None:
        """Take what was published for a key; what cannot be read leaves nothing of the key."""
        try:
            self._credentials[access_key_id] = Credential.from_json(access_key_id, data)
        except (ValueError, KeyError, TypeError, AttributeError):
            # The record holds keys: neither it nor the error's own text is for a log.
            _log.error("an access key's record could not be read", extra={"access_key_id": access_key_id})
            self.drop(access_key_id)
            return
        self.seen = True

    def drop(self, access_key_id: str) -> None:
        """Forget a key."""
        self._credentials.pop(access_key_id, None)

    def replace(self, found: dict[str, bytes]) -> None:
        """Take all keys that there are."""
        for access_key_id in self._credentials.keys() - found.keys():
            self.drop(access_key_id)
        for access_key_id, data in found.items():
            self.put(access_key_id, data)
