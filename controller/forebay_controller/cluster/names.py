"""Which Function has a name that several claim: every replica comes to the same answer."""

from collections.abc import Iterable

from forebay_controller.cluster.api import Object
from forebay_controller.cluster.informer import Informer, Key
from forebay_controller.cluster.resource import function_name, function_uid


def owner(claimants: Iterable[Object]) -> Object | None:
    """The one of several Functions with one name that has it: the one that already serves calls, else the oldest.

    Creation times are whole seconds: what serves already keeps the name against one of the same second. Pure.
    """
    return min(claimants, key=_seniority, default=None)


def _seniority(item: Object) -> tuple[bool, str, str]:
    serves = bool(item.get("status", {}).get("revision"))
    return (not serves, item["metadata"].get("creationTimestamp", ""), function_uid(item))


class Claims:
    """Which objects claim which name, by namespace; follows what an informer tells its subscribers."""

    def __init__(self, functions: Informer) -> None:
        self._functions = functions
        self._keys: dict[Key, set[Key]] = {}

    def index(self) -> None:
        """Take in all that the informer knows."""
        for item in self._functions.objects.values():
            self.note(item)

    def note(self, item: Object, *, gone: bool = False) -> None:
        """A Function is there, or is gone."""
        name = _name(item)
        keys = self._keys.setdefault(name, set())
        if gone:
            keys.discard(_key(item))
        else:
            keys.add(_key(item))
        if not keys:
            del self._keys[name]

    def find(self, namespace: str, name: str) -> Object | None:
        """The Function that has a name."""
        keys = self._keys.get((namespace, name), ())
        return owner(item for key in keys if (item := self._functions.objects.get(key)) is not None)

    def owner_of(self, item: Object) -> Object | None:
        """The Function that has the name which this one claims."""
        return self.find(*_name(item))

    def rivals(self, item: Object) -> list[Key]:
        """Others that claim the name of this one."""
        return [key for key in self._keys.get(_name(item), ()) if key != _key(item)]


def _name(item: Object) -> Key:
    return item["metadata"]["namespace"], function_name(item)


def _key(item: Object) -> Key:
    return item["metadata"]["namespace"], item["metadata"]["name"]
