#!lua flags=allow-oom
-- Results that are old enough go.
-- KEYS: 1 ended; 2 live
-- ARGV: 1 age in ms from which on they go; 2 how many at most
-- Returns how many went.
-- Errors: none of its own.
--- include record
--- include results
local last = string.format('%.0f', math.max(now_ms() - tonumber(ARGV[1]), 0))
local entries = redis.call('XRANGE', KEYS[1], '-', last, 'COUNT', ARGV[2])
if #entries > 0 then
  forget_results(KEYS[1], KEYS[2], entries)
end
return #entries
