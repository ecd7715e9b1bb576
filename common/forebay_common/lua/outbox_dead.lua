#!lua flags=allow-oom
-- An ended event that its destination did not take is a dead letter.
-- KEYS: 1 outbox; 2 dead letters; 3 body of the event (only when it has a claim)
-- ARGV: 1 entry id; 2 reason
-- Returns 1, or 0 when the outbox has no such entry (any more).
-- Errors: none of its own.
--- include bury
local entry = redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[1])[1]
if not entry then
  return 0
end
bury(KEYS[2], entry[2][2], ARGV[2], entry[2][8], KEYS[3])
redis.call('XDEL', KEYS[1], ARGV[1])
return 1
