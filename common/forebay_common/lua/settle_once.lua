#!lua flags=allow-oom
-- A sync call under an idempotency key has ended. Whoever is late (a write that was sent again, an instance that went on
-- after it had been given up) finds the key settled, or another call's, and changes nothing.
-- KEYS: 1 the idempotency key
-- ARGV: 1 payload hash (16 bytes); 2 invocation id (16 bytes); 3 'd': its reply frame is kept, '': it did not run, so
--   the key is free again; 4 reply frame; 5 retention in s
-- Returns 1, or 0 when the key does not stand for this call, pending (any more): nothing was changed.
-- Errors: none of its own.
local before = redis.call('GET', KEYS[1])
if not before or string.sub(before, 17, 33) ~= ARGV[2] .. 'p' then
  return 0
end
if ARGV[3] == '' then
  redis.call('UNLINK', KEYS[1])
else
  redis.call('SET', KEYS[1], ARGV[1] .. ARGV[2] .. ARGV[3] .. ARGV[4], 'EX', ARGV[5])
end
return 1
