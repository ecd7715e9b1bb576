from forebay_common.keys import FunctionKeys
from forebay_common.queue import VersionQueue
from forebay_common.spec import FunctionSpec
from forebay_controller.autoscale import Decision, Reason
from forebay_controller.function_state import FunctionState

WORK = Decision(needed=1, desired=1, start=1, drain=0, reason=Reason.WORK)
BURST = Decision(needed=50, desired=20, start=20, drain=0, reason=Reason.WORK)
NOTHING = Decision(needed=0, desired=0, start=0, drain=0, reason=Reason.IDLE)


def function() -> FunctionState:
    spec = FunctionSpec("default", "hello", "u", "python3.12", "app.handler", "0" * 64, 1)
    return FunctionState(spec, VersionQueue(FunctionKeys("forebay", "default", "hello", "u")))


def test_the_instance_of_a_first_call_is_kept_though_no_counter_has_told_of_it_yet() -> None:
    state = function()
    state.note_needed(1.0, WORK)
    state.note_needed(1.2, NOTHING)

    assert state.load(1.3).recent_instances == 1


def test_of_a_first_burst_that_turns_out_short_one_instance_is_kept() -> None:
    state = function()
    state.note_needed(1.0, BURST)
    state.note_needed(1.2, NOTHING)

    assert state.load(1.3).recent_instances == 1


def test_after_the_first_results_all_that_was_needed_is_remembered() -> None:
    state = function()
    state.demand.note_counters(0.5, "i", done=1, busy_us=100_000)
    state.note_needed(1.0, BURST)
    state.note_needed(1.2, NOTHING)

    assert state.load(1.3).recent_instances == state.spec.scale.max_instances
