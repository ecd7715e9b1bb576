-- An entry that nobody needs any more goes, and its event's body with it: only where the entry was still there. One
-- that is gone may be an event again, which needs its body.
-- KEYS: 1 stream (dead letters or outbox); 2 body of the event (only when it has a claim)
-- ARGV: 1 entry id
-- Returns 1, or 0 when there is no such entry (any more).
-- Errors: none of its own.
local removed = redis.call('XDEL', KEYS[1], ARGV[1])
if removed == 1 and KEYS[2] then
  redis.call('UNLINK', KEYS[2])
end
return removed
