#!lua flags=allow-oom
-- An async event whose instance is gone runs again, or is a dead letter after its last attempt. A lease counts as
-- a start: nobody can tell any more whether it did.
-- KEYS: 1 async stream; 2 delayed set; 3 dead letters; 4 live; 5 ended; 6 outbox; 7 groups; 8 list of the event's group
--   (without one the async stream); 9 heartbeat of the instance; 10 body of the event (only when it has a claim)
-- ARGV: 1 entry id; 2 consumer; 3 starts allowed in all; 4 delay in ms before the next one (0: back to the queue at
--   once); 5 0 when the instance is known to be dead, else the idle time in ms from which a lease has expired, which
--   then also asks for the heartbeat to be gone; 6 group hash, '' without one
-- Returns 0 when the lease is not that consumer's or still alive (nothing was changed), 1 back in the queue,
--   2 delayed, 3 failed for good (a dead letter, or on its way to its destination), 4 cancelled meanwhile.
-- Errors: none of its own.
--- include record
--- include lease
--- include bury
--- include results
--- include turn
--- include conclude
local id, min_idle_ms, body, group = ARGV[1], tonumber(ARGV[5]), KEYS[10], ARGV[6]
local held = lease(KEYS[1], id, ARGV[2])
if not held or held[3] < min_idle_ms then
  return 0
end
if min_idle_ms > 0 and redis.call('EXISTS', KEYS[9]) == 1 then
  return 0
end
local entry = redis.call('XRANGE', KEYS[1], id, id)[1]
if not entry then
  drop(KEYS[1], id)
  pass_turn(KEYS[1], KEYS[2], KEYS[4], KEYS[7], KEYS[8], group)
  return 0
end
local record = entry[2][2]
if is_cancelled(record, id) then
  conclude(record, id, 1, 'cancelled', 'Cancelled', '', body, group)
  return 4
end
if attempts(record, 1) >= tonumber(ARGV[3]) then
  conclude(record, id, 1, 'failed', 'RetriesExhausted', '', body, group)
  return 3
end
local now = now_ms()
local due = now + tonumber(ARGV[4])
if due > last_start_ms(record, id) then
  conclude(record, id, 1, 'failed', 'EventAgeExceeded', '', body, group)
  return 3
end
run_again(record, id, 1, due, now)
return due > now and 2 or 1
