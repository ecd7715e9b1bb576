#!lua flags=allow-oom
-- Finish one async event, as the owner of its lease: result, retry or dead letter and acknowledgement in one step.
-- KEYS: 1 async stream; 2 delayed set; 3 dead letters; 4 live; 5 ended; 6 outbox; 7 groups; 8 list of the event's group
--   (without one the async stream); 9 body of the event (only when it has a claim)
-- ARGV: 1 entry id; 2 consumer; 3 outcome; 4 delay in ms (retry, else 0); 5 reason (dead and expired, else '');
--   6 reply frame ('' without one); 7 group hash, '' without one
--   done       it ran and nothing more is to do
--   retry      it ran and failed: run it again after the delay; a retry due past the event's age is dead at once,
--              with the reason EventAgeExceeded
--   dead       it ran and failed for the last time
--   expired    it did not start: it is past its age (reason EventAgeExceeded) or cannot be run (the reason given)
--   cancelled  it ran and was stopped because somebody cancelled it
--   released   it did not start: back to the queue's end
--   One that was cancelled meanwhile and would run again, or has expired, ends as cancelled.
-- Returns 1, or 0 when the lease was lost: somebody else finishes it, and nothing was changed.
-- Errors: ERR on an unknown outcome; nothing was changed.
--- include record
--- include lease
--- include results
local id, outcome, reason, frame, body, group = ARGV[1], ARGV[3], ARGV[5], ARGV[6], KEYS[9], ARGV[7]
if not lease(KEYS[1], id, ARGV[2]) then
  return 0
end
local entry = redis.call('XRANGE', KEYS[1], id, id)[1]
if outcome == 'done' and entry and not body and group == '' and bit.band(string.byte(entry[2][2], 4), 4) == 0 then
  -- How most events end. What is defined below would cost as much as it takes.
  keep_result(KEYS[5], KEYS[4], entry[2][2], id, 'succeeded', attempts(entry[2][2], 1), '', frame)
  drop(KEYS[1], id)
  return 1
end
--- include bury
--- include turn
--- include conclude
local STARTS = {done = 1, retry = 1, dead = 1, cancelled = 1, expired = 0, released = 0}
local starts = STARTS[outcome]
if not starts then
  return redis.error_reply('ERR unknown outcome ' .. outcome)
end
if not entry then
  -- Somebody deleted the entry by hand: its lease goes, and its group goes on.
  drop(KEYS[1], id)
  pass_turn(KEYS[1], KEYS[2], KEYS[4], KEYS[7], KEYS[8], group)
  return 1
end
local record = entry[2][2]
if outcome == 'done' then
  conclude(record, id, starts, 'succeeded', '', frame, body, group)
elseif outcome == 'dead' then
  conclude(record, id, starts, 'failed', reason, frame, body, group)
elseif outcome == 'cancelled' or is_cancelled(record, id) then
  conclude(record, id, starts, 'cancelled', 'Cancelled', frame, body, group)
elseif outcome == 'expired' then
  conclude(record, id, starts, 'failed', reason, frame, body, group)
elseif outcome == 'released' then
  run_again(record, id, starts, 0, 0)
else
  local now = now_ms()
  local due = now + tonumber(ARGV[4])
  if due > last_start_ms(record, id) then
    conclude(record, id, starts, 'failed', 'EventAgeExceeded', frame, body, group)
  else
    run_again(record, id, starts, due, now)
  end
end
return 1
