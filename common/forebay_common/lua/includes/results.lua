-- Results: how an event ended, for whoever asks. Their number and bytes are bounded here (the oldest go, in batches,
-- so that most ends pay for none), their age by the controller.
local RESULTS_MAX = 1000
local RESULTS_MAX_BYTES = 16777216
local RESULTS_BATCH = 16

-- Entries of `ended` go, and what `live` says of them.
local function forget_results(ended, live, entries)
  local entry_ids, ids, bytes = {}, {}, 0
  for at, entry in ipairs(entries) do
    entry_ids[at] = entry[1]
    ids[at] = entry[2][2]
    bytes = bytes + #entry[2][12]
  end
  redis.call('HDEL', live, unpack(ids))
  redis.call('XDEL', ended, unpack(entry_ids))
  if bytes > 0 then
    redis.call('HINCRBY', live, 'bytes', -bytes)
  end
end

-- The event's place is in `ended` from now on. `status`: succeeded, failed or cancelled; `attempt`: starts made.
local function keep_result(ended, live, invocation, status, attempt, accepted, reason, frame)
  local entry_id = redis.call('XADD', ended, '*',
    'i', invocation, 's', status, 'a', attempt, 't', string.format('%.0f', accepted), 'reason', reason, 'f', frame)
  redis.call('HSET', live, invocation, 'e:' .. entry_id)
  local bytes = 0
  if #frame > 0 then
    bytes = redis.call('HINCRBY', live, 'bytes', #frame)
  end
  if bytes > RESULTS_MAX_BYTES or redis.call('XLEN', ended) > RESULTS_MAX then
    forget_results(ended, live, redis.call('XRANGE', ended, '-', '+', 'COUNT', RESULTS_BATCH))
  end
end
