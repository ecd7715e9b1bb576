"""What the management API takes where instances are pods: images, egress, uploads, several namespaces."""

import asyncio
import hashlib
from base64 import b64encode
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from botocore.exceptions import ClientError
from redis.asyncio import Redis

from forebay_common.spec import PodSpec
from forebay_controller.app import create_app
from forebay_controller.interfaces import FunctionStatus
from forebay_controller.log_reader import LogFiles
from forebay_controller.management import ManagementSettings, StoreError
from support.management import HELLO, ROLE, lambda_client, serving
from support.memory_functions import MemoryStore

IMAGE = "registry.example.com/team/function:1.4"
DIGEST = "ab" * 32
CODE = {"zip_base64": b64encode(HELLO).decode()}


class NoInstances:
    """The scaling side of functions that nobody calls."""

    def get_status(self, uid: str) -> FunctionStatus:
        return FunctionStatus(reason=uid)

    async def retire(self, uid: str) -> None:
        pass


@dataclass
class Served:
    url: str
    store: MemoryStore

    async def aws(self, operation: str, /, **members: Any) -> dict[str, Any]:
        client = lambda_client(self.url)
        found: dict[str, Any] = await asyncio.to_thread(getattr(client, operation), **members)
        return found

    async def refused(self, operation: str, /, **members: Any) -> tuple[str, str]:
        with pytest.raises(ClientError) as raised:
            await self.aws(operation, **members)
        answer: Any = raised.value.response
        return answer["Error"]["Code"], answer["Error"].get("Message") or answer["message"]

    async def http(self, method: str, path: str, **rest: Any) -> httpx.Response:
        async with httpx.AsyncClient(base_url=self.url) as client:
            return await client.request(method, path, **rest)

    async def put(self, name: str, **members: Any) -> httpx.Response:
        return await self.http("PUT", f"/v1/functions/{name}", json=members)

    def pod(self, name: str) -> PodSpec:
        return self.store.namespaces["team-a"].specs[name].pod


@pytest.fixture
async def served(redis: Redis, tmp_path: Path) -> AsyncIterator[Served]:
    store = MemoryStore(redis)
    settings = ManagementSettings(LogFiles(tmp_path), lambda _: "", b"k" * 32, default_namespace="team-a")
    async with serving(create_app(store, NoInstances(), store.queues, settings)) as url:
        yield Served(url, store)


async def create_image(served: Served, **members: Any) -> dict[str, Any]:
    wanted = {"FunctionName": "hello", "Role": ROLE, "PackageType": "Image", "Code": {"ImageUri": IMAGE}, **members}
    return await served.aws("create_function", **wanted)


async def create_zip(served: Served) -> None:
    await served.aws(
        "create_function",
        FunctionName="zipped",
        Role=ROLE,
        Runtime="python3.13",
        Handler="app.handler",
        Code={"ZipFile": HELLO},
    )


async def test_an_image_is_created_with_its_config_and_shown_as_lambda_shows_it(served: Served) -> None:
    config = {"EntryPoint": ["/entry"], "Command": ["app.handler"], "WorkingDirectory": "/work"}

    made = await create_image(served, ImageConfig=config, Timeout=9)
    found = await served.aws("get_function", FunctionName="hello")

    assert made["PackageType"] == "Image"
    assert made["ImageConfigResponse"] == {"ImageConfig": config}
    assert made["Timeout"] == 9
    assert not {"Runtime", "Handler", "RuntimeVersionConfig", "CodeSha256"} & made.keys()
    assert found["Code"] == {"RepositoryType": "ECR", "ImageUri": IMAGE, "ResolvedImageUri": IMAGE}
    assert served.pod("hello") == PodSpec(
        image=IMAGE, command=("/entry",), args=("app.handler",), working_directory="/work"
    )


async def test_an_image_without_config_shows_none_and_its_digest_is_the_codes(served: Served) -> None:
    made = await create_image(served, Code={"ImageUri": f"{IMAGE}@sha256:{DIGEST}"})

    assert "ImageConfigResponse" not in made
    assert made["CodeSha256"] == DIGEST


async def test_an_image_is_updated_and_its_config_replaced_whole(served: Served) -> None:
    await create_image(served, ImageConfig={"Command": ["app.handler"]})

    await served.aws("update_function_code", FunctionName="hello", ImageUri="other:2")
    kept = await served.aws("get_function_configuration", FunctionName="hello")
    await served.aws("update_function_configuration", FunctionName="hello", ImageConfig={"EntryPoint": ["/e"]})

    assert kept["ImageConfigResponse"] == {"ImageConfig": {"Command": ["app.handler"]}}
    assert served.pod("hello") == PodSpec(image="other:2", command=("/e",))


@pytest.mark.parametrize(
    ("members", "text"),
    [
        ({"Code": {"ZipFile": HELLO}}, "Please provide ImageUri"),
        ({"Code": {"ImageUri": IMAGE, "ZipFile": HELLO}}, "Please provide ImageUri"),
        ({"Runtime": "python3.13"}, "Runtime cannot be set"),
        ({"Runtime": "python3.13", "Handler": "app.handler"}, "Runtime and Handler cannot be set"),
        ({"PackageType": "Zip"}, "Please don't provide ImageUri"),
        ({"Layers": ["arn:aws:lambda:us-east-1:000000000000:layer:x:1"]}, "Layers is not supported"),
    ],
)
async def test_what_an_image_cannot_have_is_refused(served: Served, members: dict[str, Any], text: str) -> None:
    wanted = {"FunctionName": "hello", "Role": ROLE, "PackageType": "Image", "Code": {"ImageUri": IMAGE}, **members}

    code, message = await served.refused("create_function", **wanted)

    assert code == "InvalidParameterValueException"
    assert text in message


async def test_images_and_packages_do_not_take_each_others_updates(served: Served) -> None:
    await create_image(served)
    await create_zip(served)

    refused = [
        await served.refused("update_function_code", FunctionName="hello", ZipFile=HELLO),
        await served.refused("update_function_code", FunctionName="zipped", ImageUri=IMAGE),
        await served.refused("update_function_code", FunctionName="hello", ImageUri=IMAGE, ZipFile=HELLO),
        await served.refused("update_function_configuration", FunctionName="hello", Handler="app.handler"),
        await served.refused("update_function_configuration", FunctionName="zipped", ImageConfig={"Command": ["x"]}),
    ]

    assert {code for code, _ in refused} == {"InvalidParameterValueException"}
    assert [message.split(".")[0] for _, message in refused] == [
        "Please don't provide ZipFile when updating a function with packageType Image",
        "Please don't provide ImageUri when updating a function with packageType Zip",
        "Please provide either ZipFile or ImageUri",
        "Handler cannot be set for functions created with container images: ImageConfig says what an image runs",
        "ImageConfig is a parameter of functions created with container images only",
    ]


async def test_each_namespace_has_functions_of_its_own(served: Served) -> None:
    await served.put("hello", image={"uri": IMAGE})
    await served.http("PUT", "/ns/team-b/v1/functions/hello", json={"image": {"uri": "b:1"}})

    default = (await served.http("GET", "/v1/functions/hello")).json()
    other = (await served.http("GET", "/ns/team-b/v1/functions/hello")).json()
    none = await served.http("GET", "/ns/team-c/v1/functions")

    assert (default["namespace"], default["image"]["uri"]) == ("team-a", IMAGE)
    assert (other["namespace"], other["image"]["uri"]) == ("team-b", "b:1")
    assert none.json()["error"]["message"].endswith("served here: team-a and team-b")


async def test_a_put_makes_an_image_open_to_all_that_reaches_nothing(served: Served) -> None:
    answer = await served.put("hello", image={"uri": IMAGE, "args": ["app.handler"]}, auth="none", egress="none")

    found = answer.json()
    assert answer.status_code == 201
    assert found["image"] == {"uri": IMAGE, "command": [], "args": ["app.handler"], "working_directory": ""}
    assert (found["auth"], found["egress"], found["code"], found["runtime"]) == ("none", "none", None, "")


async def test_absent_members_of_an_image_keep_their_value(served: Served) -> None:
    await served.put("hello", image={"uri": IMAGE, "args": ["app.handler"]}, egress="10.0.0.0/8:5432, internet")

    found = (await served.put("hello", image={"working_directory": "/work"}, timeout_s=7)).json()

    assert found["image"] == {"uri": IMAGE, "command": [], "args": ["app.handler"], "working_directory": "/work"}
    assert (found["egress"], found["timeout_s"]) == ("10.0.0.0/8:5432,internet", 7)


async def test_a_put_turns_code_into_an_image_and_back(served: Served) -> None:
    await served.put("hello", runtime="python3.13", handler="app.handler", code=CODE)

    image = (await served.put("hello", image={"uri": IMAGE, "command": ["/x"]})).json()
    code = (await served.put("hello", runtime="python3.13", handler="app.handler", code=CODE)).json()

    assert (image["runtime"], image["handler"], image["code"], image["image"]["uri"]) == ("", "", None, IMAGE)
    assert (code["runtime"], code["image"]) == ("python3.13", None)
    assert code["code"]["sha256"] == hashlib.sha256(HELLO).hexdigest()
    assert served.pod("hello") == PodSpec()


@pytest.mark.parametrize(
    ("members", "text"),
    [
        ({"image": {"uri": IMAGE}, "runtime": "python3.13"}, "image takes the place of runtime, handler and code"),
        ({"image": {"command": ["x"]}}, "a new one needs runtime, handler and code"),
        ({"image": {"uri": ""}}, "image.uri"),
        ({"image": {"uri": IMAGE}, "egress": "everywhere"}, "egress: 'everywhere' is none of"),
        ({"image": {"uri": IMAGE}, "auth": "perhaps"}, "auth"),
    ],
)
async def test_what_a_put_cannot_ask_for_is_refused(served: Served, members: dict[str, Any], text: str) -> None:
    answer = await served.put("hello", **members)

    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid")
    assert text in answer.json()["error"]["message"]


async def test_an_image_takes_no_runtime_and_code_needs_one(served: Served) -> None:
    await served.put("hello", image={"uri": IMAGE})
    await served.put("zipped", runtime="python3.13", handler="app.handler", code=CODE)

    answers = [
        await served.put("hello", runtime="python3.13"),
        await served.put("hello", code=CODE),
        await served.put("zipped", image={"args": ["x"]}),
    ]

    assert [answer.json()["error"]["message"] for answer in answers] == [
        "runtime and handler are for functions with code; this one is a container image",
        "The function is a container image: code in its place needs runtime and handler",
        "image.uri: the function has no image yet",
    ]


@pytest.mark.parametrize(
    ("code", "status", "lambda_code"),
    [
        ("invalid", 400, "InvalidParameterValueException"),
        ("conflict", 409, "ResourceConflictException"),
        ("forbidden", 403, "AccessDeniedException"),
        ("unavailable", 503, "ServiceException"),
    ],
)
async def test_what_the_store_refuses_is_told_in_each_shape(
    served: Served, code: Any, status: int, lambda_code: str
) -> None:
    served.store.namespaces["team-a"].refusal = StoreError(code, "the API server says no")

    by_v1 = await served.put("hello", image={"uri": IMAGE})
    by_lambda = await served.refused(
        "create_function", FunctionName="hello", Role=ROLE, PackageType="Image", Code={"ImageUri": IMAGE}
    )

    assert (by_v1.status_code, by_v1.json()) == (status, {"error": {"code": code, "message": "the API server says no"}})
    assert by_lambda == (lambda_code, "the API server says no")


async def test_a_package_is_uploaded_under_its_digest(served: Served) -> None:
    digest, other = hashlib.sha256(HELLO).hexdigest(), "0" * 64

    kept = await served.http("PUT", f"/v1/blobs/{digest}", content=HELLO)
    wrong = await served.http("PUT", f"/v1/blobs/{other}", content=HELLO)
    no_zip = await served.http("PUT", f"/v1/blobs/{digest}", content=b"no zip")

    assert kept.status_code == 204
    assert served.store.blobs[digest].data == HELLO
    assert wrong.json()["error"]["message"] == f"The body's SHA-256 is {digest}, not {other}"
    assert (wrong.status_code, no_zip.status_code) == (400, 400)
