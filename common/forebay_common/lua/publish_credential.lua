-- Change one access key that gateways check requests by and tell every gateway, under the table's next generation.
-- KEYS: 1 credentials; 2 generation counter of the function table
-- ARGV: 1 channel; 2 access key id; 3 the record as JSON, '' to remove it
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
redis.call('PUBLISH', ARGV[1], string.format('%d credentials/%s', generation, ARGV[2]))
return generation
