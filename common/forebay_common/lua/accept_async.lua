-- Accept an async event: it is in the queue, or waits for its time or for its group's turn.
-- KEYS: 1 async stream; 2 live; 3 delayed set; 4 groups; 5 list of the event's group (without one the async stream);
--   then its idempotency key (only with one), then its body (only when it has a claim)
-- ARGV: 1 record; 2 invocation id (16 bytes); 3 delay in ms (0: now); 4 group hash, '' without one; with an
--   idempotency key: 5 payload hash (16 bytes); 6 retention in s
-- Returns {0, id} accepted; {1, id} the same key and payload were accepted before, as that id (which is its own when
--   the key is gone, but not the event); {2} another request stands under the key; {3} its body is not there (memory
--   was full when it was written, and no more a moment later); nil when the function is deleted. Unless accepted
--   nothing was changed.
-- Errors: none of its own.
if ARGV[3] == '0' and ARGV[4] == '' and not KEYS[6] then
  -- Most events are small, for now, without a group or a key: before the includes, whose definitions alone take longer.
  local entry_id = redis.call('XADD', KEYS[1], 'NOMKSTREAM', '*', 'r', ARGV[1])
  if not entry_id then
    return false
  end
  redis.call('HSET', KEYS[2], ARGV[2], entry_id)
  return {0, ARGV[2]}
end
--- include record
--- include turn
local record, id, delay_ms, group = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4]
local once = ARGV[5] and KEYS[6]
local body = KEYS[once and 7 or 6]
if once then
  local before = redis.call('GET', once)
  if before then
    if string.sub(before, 1, 16) == ARGV[5] and string.sub(before, 33, 33) == 'a' then
      return {1, string.sub(before, 17, 32)}
    end
    return {2}
  end
  -- Who derives an event's id from what it tells of may come again after the key has expired.
  if redis.call('HEXISTS', KEYS[2], id) == 1 then
    return {1, id}
  end
end
if body and redis.call('EXISTS', body) == 0 then
  return {3}
end
local now = 0
if delay_ms > 0 or group ~= '' then
  -- The stream stands for the function: nothing is written beside one that is gone.
  if redis.call('EXISTS', KEYS[1]) == 0 then
    return false
  end
  now = now_ms()
end
if delay_ms > 0 then
  -- What is accepted for later counts its age from then on.
  record = patched(record, string.byte(record, 5), now + delay_ms)
end
if takes_turn(KEYS[2], KEYS[4], KEYS[5], group, record, now) then
  if delay_ms > 0 then
    delay(KEYS[3], KEYS[2], record, now + delay_ms)
  elseif not append(KEYS[1], KEYS[2], record) then
    return false
  end
end
if once then
  redis.call('SET', once, ARGV[5] .. id .. 'a', 'EX', ARGV[6])
end
return {0, id}
