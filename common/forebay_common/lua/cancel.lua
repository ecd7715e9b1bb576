-- Take back a sync call that no instance has leased: its caller is gone or has waited long enough.
-- KEYS: 1 sync stream; 2… what goes with the call: its body, its idempotency key (those that it has)
-- ARGV: 1 entry id
-- Returns 1 when the call was removed and will never start, 0 when it is leased, finished or gone.
-- Errors: none of its own.
--- include lease
local leased = pending(KEYS[1], ARGV[1], ARGV[1], 1)
if not leased or #leased > 0 then
  return 0
end
local removed = redis.call('XDEL', KEYS[1], ARGV[1])
if removed == 1 then
  for i = 2, #KEYS do
    -- One by one: no rule of a Redis user need cover two kinds of keys.
    redis.call('UNLINK', KEYS[i])
  end
end
return removed
