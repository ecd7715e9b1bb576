-- Change one entry of the function table and tell every gateway, under the next generation.
-- KEYS: 1 function table; 2 generation counter
-- ARGV: 1 channel; 2 field NAMESPACE/NAME; 3 the entry as JSON, '' to remove it
-- Returns the table's generation. Writing what is already there changes nothing and is not announced.
-- Errors: none of its own.
local before = redis.call('HGET', KEYS[1], ARGV[2])
if before == ARGV[3] or (not before and ARGV[3] == '') then
  return tonumber(redis.call('GET', KEYS[2]) or 0)
end
if ARGV[3] == '' then
  redis.call('HDEL', KEYS[1], ARGV[2])
else
  redis.call('HSET', KEYS[1], ARGV[2], ARGV[3])
end
local generation = redis.call('INCR', KEYS[2])
redis.call('PUBLISH', ARGV[1], string.format('%d %s', generation, ARGV[2]))
return generation
