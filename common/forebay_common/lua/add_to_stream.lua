-- A record for a stream that is a destination. The oldest go as long as the records take too many bytes: each entry says
-- how many have been written up to it, so that nothing beside the stream counts them, whoever deletes from it.
-- KEYS: 1 stream
-- ARGV: 1 the record's id; 2 record; 3 entries at most (about); 4 bytes of records at most; 5 s until the stream goes
-- Returns the entry's id.
-- Errors: none of its own.
local function total(entry)
  return tonumber(entry[2][6]) or 0
end
local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
local written = (last and total(last) or 0) + #ARGV[2]
local added = redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[3], '*',
  'id', ARGV[1], 'record', ARGV[2], 'total', string.format('%.0f', written))
redis.call('EXPIRE', KEYS[1], ARGV[5])
local first = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)[1]
while first[1] ~= added and written - total(first) + #(first[2][4] or '') > tonumber(ARGV[4]) do
  redis.call('XDEL', KEYS[1], first[1])
  first = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)[1]
end
return added
