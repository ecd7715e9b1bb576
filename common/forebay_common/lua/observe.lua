-- What the controller must know of one version's queues, in one step: the numbers belong together.
-- KEYS: 1 sync stream; 2 async stream; 3 delayed set; 4 dead letters; 5 outbox; 6 groups; 7 ended
-- Returns nil when the function's queues do not exist, else
--   {sync, async, delayed, dead, outbox, waiting for their group's turn, ended}, where sync and async are {length, age
--   of the oldest entry that nobody has been given in ms or -1, {consumer, its pending entries as text, …}}, delayed is
--   {count, ms until the next is due or -1} and the others are counts.
-- Errors: none of its own.
--- include record
--- include lease
local now = now_ms()

-- The first undelivered entry is read (with its record, at most CLAIM_CHECK_BYTES) only when there is one.
local function oldest_age_ms(stream)
  for _, group in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
    local fields = {}
    for i = 1, #group, 2 do
      fields[group[i]] = group[i + 1]
    end
    if fields['name'] == 'g' then
      local entry = redis.call('XRANGE', stream, '(' .. fields['last-delivered-id'], '+', 'COUNT', 1)[1]
      if entry then
        return math.max(now - tonumber(string.match(entry[1], '^%d+')), 0)
      end
    end
  end
  return -1
end

local function queue(stream)
  local summary = pending(stream)
  if not summary then
    return nil
  end
  local length = redis.call('XLEN', stream)
  local consumers = {}
  for _, consumer in ipairs(summary[4] or {}) do
    consumers[#consumers + 1] = consumer[1]
    consumers[#consumers + 1] = consumer[2]
  end
  local age = -1
  if length > summary[1] then
    age = oldest_age_ms(stream)
  end
  return {length, age, consumers}
end

local sync = queue(KEYS[1])
local async = queue(KEYS[2])
if not sync or not async then
  return false
end
local due_in = -1
local first = redis.call('ZRANGE', KEYS[3], 0, 0, 'WITHSCORES')
if first[2] then
  due_in = math.max(tonumber(first[2]) - now, 0)
end
local grouped = tonumber(redis.call('HGET', KEYS[6], 'n') or 0)
return {
  sync, async, {redis.call('ZCARD', KEYS[3]), due_in}, redis.call('XLEN', KEYS[4]), redis.call('XLEN', KEYS[5]), grouped,
  redis.call('XLEN', KEYS[7]),
}
