"""Which paths mean what, in which namespace, and on which port they are served."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forebay_gateway.areas import Area, area_of, is_invoke, split_namespace

INVOKE = b"/2015-03-31/functions/hello/invocations"


@pytest.mark.parametrize(
    ("path", "namespace", "rest"),
    [
        (b"/v1/functions", "", b"/v1/functions"),
        (b"/ns/team-a/v1/functions", "team-a", b"/v1/functions"),
        (b"/ns/team-a/", "team-a", b"/"),
        (b"/ns/a/fn/hello/ns/b", "a", b"/fn/hello/ns/b"),
        (b"/ns/a/ns/b/fn/hello", "a", b"/ns/b/fn/hello"),
        (b"/ns/" + b"a" * 63 + b"/x", "a" * 63, b"/x"),
    ],
)
def test_a_path_may_start_with_a_namespace(path: bytes, namespace: str, rest: bytes) -> None:
    assert split_namespace(path) == (namespace, rest)


@pytest.mark.parametrize(
    "path",
    [
        *(b"/ns/team-a", b"/ns//x", b"/ns/Team/x", b"/ns/-a/x", b"/ns/a-/x", b"/ns/a.b/x", b"/ns/%61/x", b"/NS/a/x"),
        *(b"/nsa/x", b"/ns/" + b"a" * 64 + b"/x", b"//ns/a/x", b"/fn/hello/ns/a/x"),
    ],
)
def test_what_is_no_namespace_is_part_of_the_path(path: bytes) -> None:
    assert split_namespace(path) == ("", path)


@pytest.mark.parametrize("namespace", [b"", b"/ns/team-a"])
@pytest.mark.parametrize(
    ("path", "area"),
    [
        (INVOKE, Area.INVOKE),
        (b"/2015-03-31/functions/invocations", Area.INVOKE),
        (b"/fn/hello", Area.FUNCTION),
        (b"/fn/hello/2015-03-31/functions/hello/invocations", Area.FUNCTION),
        (b"/fn", Area.FUNCTION),
        (b"/v1/code/abc", Area.CODE_LINK),
        (b"/v1/functions", Area.MANAGEMENT),
        (b"/2015-03-31/functions", Area.MANAGEMENT),
    ],
)
def test_a_namespace_does_not_change_what_a_path_is_about(namespace: bytes, path: bytes, area: Area) -> None:
    assert area_of("POST", namespace + path) is area


@pytest.mark.parametrize("path", [b"/healthz", b"/metrics", b"/docs", b"/openapi.json", b"/controller/metrics"])
def test_what_is_about_the_process_is_in_no_namespace(path: bytes) -> None:
    assert area_of("GET", path) in {Area.OPEN, Area.CONTROLLER_METRICS}
    assert area_of("GET", b"/ns/default" + path) is Area.MANAGEMENT


def test_only_a_post_invokes() -> None:
    assert area_of("GET", INVOKE) is Area.MANAGEMENT


@given(path=st.binary(max_size=60).map(lambda rest: b"/ns/a/" + rest) | st.binary(max_size=60))
def test_a_path_is_an_invoke_if_and_only_if_it_is_one_behind_its_namespace(path: bytes) -> None:
    rest = split_namespace(path)[1]
    assert is_invoke(path) is (rest.startswith(b"/2015-03-31/functions/") and rest.endswith(b"/invocations"))
