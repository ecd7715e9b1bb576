#!lua flags=allow-oom
-- Delayed events that are due go to the async queue.
-- KEYS: 1 delayed set; 2 async stream; 3 live
-- ARGV: 1 how many at most
-- Returns {how many moved, ms until the next is due (0: there are more now) or -1}.
-- Errors: none of its own.
--- include record
local now = now_ms()
local due = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, ARGV[1])
for _, invocation in ipairs(due) do
  local waiting = redis.call('HGET', KEYS[3], invocation)
  -- What does not wait for its time is elsewhere, and stays there. The record has its moment of acceptance since it
  -- began to wait. No stream: the function is deleted, and a new stream would outlive it.
  local entry_id = waiting and string.sub(waiting, 1, 1) == 'd'
    and redis.call('XADD', KEYS[2], 'NOMKSTREAM', '*', 'r', string.sub(waiting, 2))
  if entry_id then
    redis.call('HSET', KEYS[3], invocation, entry_id)
  end
  redis.call('ZREM', KEYS[1], invocation)
end
local due_in = -1
local first = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')
if first[2] then
  due_in = math.max(tonumber(first[2]) - now, 0)
end
return {#due, due_in}
