#!lua flags=allow-oom
-- Hand back entries that were leased but not started: they join the queue's end and keep their moment of
-- acceptance. No start is counted. For calls, and for events that cannot be read: one that can is handed back with
-- finish_async, which ends it where it was cancelled meanwhile.
-- KEYS: 1 stream (sync or async); 2 live (for the sync stream that stream again)
-- ARGV: 1 consumer; 2… entry ids
-- Returns how many were handed back; an id that this consumer does not hold is passed over.
-- Errors: none of its own.
--- include record
--- include lease
local stream, live = KEYS[1], KEYS[2]
local released = 0
for i = 2, #ARGV do
  local id = ARGV[i]
  if lease(stream, id, ARGV[1]) then
    local entry = redis.call('XRANGE', stream, id, id)[1]
    if entry then
      local record = moved_record(entry[2][2], id, 0)
      local next_id = redis.call('XADD', stream, '*', 'r', record)
      if live ~= stream then
        local mark = redis.call('HGET', live, invocation_id(record)) == id .. ' c' and ' c' or ''
        redis.call('HSET', live, invocation_id(record), next_id .. mark)
      end
      released = released + 1
    end
    drop(stream, id)
  end
end
return released
