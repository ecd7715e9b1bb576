-- A dead letter is an event again, as if it were accepted now.
-- KEYS: 1 dead letters; 2 async stream; 3 live; 4 ended; 5 groups; 6 list of the event's group (without one the async
--   stream); 7 body of the event (only when it has a claim)
-- ARGV: 1 entry id; 2 group hash, '' without one
-- Returns 1, or 0 when there is no such dead letter (any more) or the function is deleted.
-- Errors: none of its own.
--- include record
--- include results
--- include turn
-- How long a body outlives its event's age: it may start at the end of it.
local BODY_MARGIN_MS = 3600000
local entry = redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[1])[1]
if not entry or redis.call('EXISTS', KEYS[2]) == 0 then
  return 0
end
local record = patched(entry[2][2], 0, 0)
local invocation = invocation_id(record)
local place = redis.call('HGET', KEYS[3], invocation)
if place and string.sub(place, 1, 1) == 'e' then
  -- Its result is the next one.
  local id = string.sub(place, 3)
  forget_results(KEYS[4], KEYS[3], redis.call('XRANGE', KEYS[4], id, id))
end
if takes_turn(KEYS[3], KEYS[5], KEYS[6], ARGV[2], record, now_ms()) then
  append(KEYS[2], KEYS[3], record)
end
if KEYS[7] then
  redis.call('PEXPIRE', KEYS[7], struct.unpack('>I4', record, 11) + BODY_MARGIN_MS)
end
redis.call('XDEL', KEYS[1], ARGV[1])
return 1
