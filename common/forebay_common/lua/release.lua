-- Hand back entries that were leased but not started: they join the queue's end and keep their moment of
-- acceptance. No start is counted.
-- KEYS: 1 stream (sync or async)
-- ARGV: 1 consumer; 2… entry ids
-- Returns how many were handed back; an id that this consumer does not hold is passed over.
-- Errors: none of its own.
--- include record
--- include lease
local released = 0
for i = 2, #ARGV do
  local id = ARGV[i]
  if lease(KEYS[1], id, ARGV[1]) then
    local entry = redis.call('XRANGE', KEYS[1], id, id)[1]
    if entry then
      redis.call('XADD', KEYS[1], 'NOMKSTREAM', '*', 'r', moved_record(entry[2][2], id, 0))
      released = released + 1
    end
    drop(KEYS[1], id)
  end
end
return released
