-- An async event whose instance is gone runs again, or is a dead letter after its last attempt. A lease counts as
-- a start: nobody can tell any more whether it did.
-- KEYS: 1 async stream; 2 delayed set; 3 dead letters; 4 heartbeat of the instance; 5 body of the event (only when
--   it has a claim)
-- ARGV: 1 entry id; 2 consumer; 3 starts allowed in all; 4 delay in ms before the next one (0: back to the queue at
--   once); 5 0 when the instance is known to be dead, else the idle time in ms from which a lease has expired, which
--   then also asks for the heartbeat to be gone
-- Returns 0 when the lease is not that consumer's or still alive (nothing was changed), 1 back in the queue,
--   2 delayed, 3 dead letter.
-- Errors: none of its own.
--- include record
--- include lease
--- include bury
local stream, id = KEYS[1], ARGV[1]
local min_idle_ms = tonumber(ARGV[5])
local held = lease(stream, id, ARGV[2])
if not held or held[3] < min_idle_ms then
  return 0
end
if min_idle_ms > 0 and redis.call('EXISTS', KEYS[4]) == 1 then
  return 0
end
local entry = redis.call('XRANGE', stream, id, id)[1]
if not entry then
  drop(stream, id)
  return 0
end
local record = moved_record(entry[2][2], id, 1)
local due = now_ms() + tonumber(ARGV[4])
local result
if string.byte(record, 5) >= tonumber(ARGV[3]) then
  bury(KEYS[3], record, 'RetriesExhausted', KEYS[5])
  result = 3
elseif due > last_start_ms(record, id) then
  bury(KEYS[3], record, 'EventAgeExceeded', KEYS[5])
  result = 3
elseif tonumber(ARGV[4]) > 0 then
  redis.call('ZADD', KEYS[2], due, record)
  result = 2
else
  redis.call('XADD', stream, 'NOMKSTREAM', '*', 'r', record)
  result = 1
end
drop(stream, id)
return result
