"""One controller leads at a time: by the Lease, over real HTTP, with troubles that a real API server shows seldom."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from forebay_controller.background import end_tasks
from forebay_controller.cluster.api import LEASES
from forebay_controller.cluster.leader import Leadership, LeadershipLostError, LeaseSettings
from support.controller_rig import until
from support.scripted_api_server import ScriptedApiServer, scripted_api_server

QUICK = {"duration_s": 1.0, "renew_deadline_s": 0.6, "retry_period_s": 0.1}


@pytest.fixture
async def server() -> AsyncIterator[ScriptedApiServer]:
    async with scripted_api_server() as running:
        yield running


@asynccontextmanager
async def candidate(server: ScriptedApiServer, identity: str, **times: float) -> AsyncIterator[Leadership]:
    api = server.api(retry_for_s=0)
    found = Leadership(api, LeaseSettings("forebay", "forebay-controller", identity, **times))
    await found.start()
    try:
        yield found
    finally:
        await found.close()
        await api.close()


@asynccontextmanager
async def task(work: Any) -> AsyncIterator[asyncio.Task[None]]:
    running = asyncio.create_task(work)
    try:
        yield running
    finally:
        await end_tasks([running])


def lease(server: ScriptedApiServer) -> dict[str, Any]:
    found: dict[str, Any] = server.get(LEASES, "forebay", "forebay-controller")["spec"]
    return found


def renewals(server: ScriptedApiServer) -> Callable[[], bool]:
    """Whether the Lease was renewed since this call."""
    before = lease(server)["renewTime"]
    return lambda: lease(server)["renewTime"] != before


async def test_the_first_one_leads_and_renews(server: ScriptedApiServer) -> None:
    async with candidate(server, "a", **QUICK) as first:
        await first.acquire()
        assert first.leads
        assert lease(server)["holderIdentity"] == "a"
        async with task(first.hold()):
            await until(renewals(server), "it is renewed")
        assert lease(server)["leaseTransitions"] == 0


async def test_a_standby_takes_a_lease_that_was_given_up_at_once_though_it_would_have_lasted(
    server: ScriptedApiServer,
) -> None:
    async with candidate(server, "a") as first, candidate(server, "b") as second:
        await first.acquire()
        async with task(second.acquire()) as taking:
            await asyncio.sleep(0.2)
            assert not taking.done()
            began_s = time.monotonic()
            await first.release()
            await taking
            assert time.monotonic() - began_s < 0.5
        assert lease(server)["holderIdentity"] == "b"
        assert lease(server)["leaseTransitions"] == 1


async def test_a_standby_takes_the_lease_of_a_leader_that_died_once_it_has_run_out(server: ScriptedApiServer) -> None:
    async with candidate(server, "a", **QUICK) as first, candidate(server, "b", **QUICK) as second:
        await first.acquire()
        began_s = time.monotonic()
        async with asyncio.timeout(3):
            await second.acquire()
        assert time.monotonic() - began_s >= 0.9


async def test_a_leader_cut_off_from_the_api_server_ends_before_its_lease_does(server: ScriptedApiServer) -> None:
    async with candidate(server, "a", **QUICK) as first:
        await first.acquire()
        async with task(first.hold()) as holding:
            await until(renewals(server), "it is renewed")
            cut_off_s = time.monotonic()
            await server.away()
            with pytest.raises(LeadershipLostError):
                await holding
            assert time.monotonic() - cut_off_s < QUICK["duration_s"]
        assert not first.leads
        await server.start()


async def test_a_leader_survives_errors_and_a_renewal_whose_answer_was_lost(server: ScriptedApiServer) -> None:
    async with candidate(server, "a", **QUICK) as first:
        await first.acquire()
        async with task(first.hold()) as holding:
            server.fail("PUT", "leases", 500)
            server.fail("PUT", "leases", 503, done=True)
            await until(lambda: not any(fault.times for fault in server.faults), "both have happened")
            await until(renewals(server), "it is renewed again")
            assert not holding.done()


async def test_a_leader_whose_lease_somebody_else_holds_ends(server: ScriptedApiServer) -> None:
    async with candidate(server, "a", **QUICK) as first:
        await first.acquire()
        async with task(first.hold()) as holding:
            server.change_spec(LEASES, "forebay", "forebay-controller", holderIdentity="b")
            with pytest.raises(LeadershipLostError, match="another controller"):
                await holding
        assert lease(server)["holderIdentity"] == "b"


async def test_of_two_that_ask_at_once_one_leads(server: ScriptedApiServer) -> None:
    async with (
        candidate(server, "a") as first,
        candidate(server, "b") as second,
        task(first.acquire()) as one,
        task(second.acquire()) as other,
    ):
        await until(lambda: one.done() or other.done(), "one leads")
        await asyncio.sleep(0.3)
        assert one.done() is not other.done()
