-- Accept a sync call that carries an idempotency key, unless it was accepted before.
-- KEYS: 1 sync stream; 2 the idempotency key
-- ARGV: 1 record; 2 payload hash (16 bytes); 3 invocation id (16 bytes)
-- Returns {0, entry id} accepted; {1, id} the same call runs or waits, as that id; {2} another request stands under
--   the key; {3, id, frame} the same call is done: its reply frame; nil when the function is deleted.
-- Errors: none of its own.
-- Longer than any call waits and runs (CLAIM_TTL_S): the key is there until the call has ended. Whoever ends it settles
-- the key, and gives it the retention that stands in the record.
local PENDING_S = 3600
local before = redis.call('GET', KEYS[2])
if before then
  local id, state = string.sub(before, 17, 32), string.sub(before, 33, 33)
  if string.sub(before, 1, 16) ~= ARGV[2] or state == 'a' then
    return {2}
  elseif state == 'p' then
    return {1, id}
  end
  return {3, id, string.sub(before, 34)}
end
local entry_id = redis.call('XADD', KEYS[1], 'NOMKSTREAM', '*', 'r', ARGV[1])
if not entry_id then
  return false
end
redis.call('SET', KEYS[2], ARGV[2] .. ARGV[3] .. 'p', 'EX', PENDING_S)
return {0, entry_id}
