#!lua flags=allow-oom
-- Cancel an async event, wherever it is.
-- KEYS: 1 async stream; 2 live; 3 delayed set; 4 ended; 5 groups; 6 list of the event's group (without one the async
--   stream); 7 body of the event (only when it has a claim)
-- ARGV: 1 invocation id (16 bytes); 2 group hash, '' without one
-- Returns {0} no such event; {1} cancelled: it will not run (again); {2, consumer} an instance holds it: that it is
--   cancelled is noted, and the instance is to be told; {3} it had ended before.
-- Errors: none of its own.
--- include record
--- include lease
--- include results
--- include turn
local stream, live, delayed, invocation, group = KEYS[1], KEYS[2], KEYS[3], ARGV[1], ARGV[2]
local place = redis.call('HGET', live, invocation)
if not place then
  return {0}
end
local kind = string.sub(place, 1, 1)
if kind == 'e' then
  return {3}
end
local record, id = nil, ''
if kind == 'd' or kind == 'g' then
  record = string.sub(place, 2)
else
  id = string.match(place, '^%S+')
  local held = pending(stream, id, id, 1)
  if held and held[1] then
    redis.call('HSET', live, invocation, id .. ' c')
    return {2, held[1][2]}
  end
  local entry = redis.call('XRANGE', stream, id, id)[1]
  if not entry then
    return {0}
  end
  record = entry[2][2]
  redis.call('XDEL', stream, id)
end
keep_result(KEYS[4], live, record, id, 'cancelled', attempts(record, 0), 'Cancelled', '')
if KEYS[7] then
  redis.call('UNLINK', KEYS[7])
end
if kind == 'g' then
  -- Another one has its group's turn.
  redis.call('LREM', KEYS[6], 1, invocation)
  redis.call('HINCRBY', KEYS[5], 'n', -1)
else
  redis.call('ZREM', delayed, invocation)
  pass_turn(stream, delayed, live, KEYS[5], KEYS[6], group)
end
return {1}
