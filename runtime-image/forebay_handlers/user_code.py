"""Finding the user's handler: its search path, its modules before ours, and Lambda's words when it is not there."""

import importlib
import importlib.machinery
import os
import site
import sys
import types

from forebay_handlers.errors import ErrorWriter, FaultError, text_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, FrozenSet, List

LAYER_PYTHON = "/opt/python"


def search_path(task_root: str, python_path: str, boto_path: str, standard: "List[str]") -> "List[str]":
    """The user's sys.path: the package first, layers and PYTHONPATH, the standard library, boto3 last (pure).

    boto3's folder is last although PYTHONPATH names it on Lambda, so that a package's own botocore wins.
    """
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    own = [entry for entry in python_path.split(os.pathsep) if entry and entry != boto_path]
    layers = [f"{LAYER_PYTHON}/lib/{version}/site-packages", LAYER_PYTHON]
    last = [boto_path] if boto_path else []
    return list(dict.fromkeys([task_root, *own, *layers, *standard, *last]))


def give_way(places: "List[str]", essential: "FrozenSet[str]") -> None:
    """Forget each imported module that the user brings too, so that the user's is the one imported.

    `places` are the folders that come before the standard library. A mere folder of that name (no package) does
    not count: the standard library's module would win over it in any interpreter.
    """
    loaded = {name.partition(".")[0] for name in sys.modules}.difference(essential, sys.builtin_module_names)
    for place in places:
        try:
            entries = os.listdir(place)
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            continue  # no such layer, or one that is of no use to the user either
        for name in loaded.intersection(entry.partition(".")[0] for entry in entries):
            spec = importlib.machinery.PathFinder.find_spec(name, [place])
            if spec is not None and spec.origin is not None:
                forget(name)


def forget(name: str) -> None:
    """Remove a module and its submodules from sys.modules."""
    for loaded in [loaded for loaded in sys.modules if loaded == name or loaded.startswith(name + ".")]:
        del sys.modules[loaded]


def look_like_a_script() -> None:
    """Be the `__main__` that user code may meet: no file of ours, and the names that `site` usually adds."""
    # multiprocessing's spawn would run our own file again in each child if __main__ still named it.
    sys.modules["__main__"] = types.ModuleType("__main__")
    sys.argv = ["/var/runtime/bootstrap.py"]
    site.setquit()
    site.sethelper()


def load_handler(name: str, errors: ErrorWriter) -> "Callable[[Any, Any], Any]":
    """Import `module.function` (or `pkg/module.function`).

    Raises FaultError in Lambda's words, or whatever else the module raises.
    """
    try:
        module_name, function_name = name.rsplit(".", 1)
    except ValueError as error:
        raise FaultError("Runtime.MalformedHandlerName", f"Bad handler '{name}': {error}") from None
    dotted = module_name.replace("/", ".")
    if dotted.partition(".")[0] in sys.builtin_module_names:
        raise FaultError(
            "Runtime.BuiltInModuleConflict", f"Cannot use built-in module {module_name} as a handler module"
        )
    try:
        module = importlib.import_module(dotted)
    except ImportError as error:
        raise FaultError(
            "Runtime.ImportModuleError", f"Unable to import module '{module_name}': {text_of(error)}"
        ) from None
    except SyntaxError as error:
        path = errors.shown_path(error.filename or "")
        raise FaultError(
            "Runtime.UserCodeSyntaxError",
            f"Syntax error in module '{module_name}': {text_of(error)}",
            [f'  File "{path}" Line {error.lineno}\n    {error.text}'],
        ) from None
    try:
        handler: "Callable[[Any, Any], Any]" = getattr(module, function_name)
    except AttributeError:
        raise FaultError(
            "Runtime.HandlerNotFound", f"Handler '{function_name}' missing on module '{module_name}'"
        ) from None
    return handler
