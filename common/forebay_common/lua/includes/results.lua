-- Results: how an event ended, for whoever asks. Their number and bytes are bounded here (the oldest go, in batches,
-- so that most ends pay for none), their age by the controller.
local RESULTS_MAX_BYTES = 16777216
local RESULTS_BATCH = 16
-- Each weighs its frame's bytes and RESULTS_MAX_BYTES / RESULTS_MAX: one sum, `kept` in `live`, bounds both.
local RESULT_WEIGHT = 16777

-- Entries of `ended` go, and what `live` says of them. Their fields: `i` invocation id; `e` status, attempts, moment of
-- acceptance and reason, with spaces between; `f` reply frame.
local function forget_results(ended, live, entries)
  local entry_ids, ids, weight = {}, {}, 0
  for at, entry in ipairs(entries) do
    entry_ids[at] = entry[1]
    ids[at] = entry[2][2]
    weight = weight + RESULT_WEIGHT + #entry[2][6]
  end
  redis.call('HDEL', live, unpack(ids))
  redis.call('XDEL', ended, unpack(entry_ids))
  redis.call('HINCRBY', live, 'kept', -weight)
end

-- The events' places are in `ended` from now on. `ends`: of each {invocation id, how it ended, frame}.
local function keep_results(ended, live, ends)
  local places, weight = {}, 0
  for at, found in ipairs(ends) do
    places[2 * at - 1] = found[1]
    places[2 * at] = 'e:' .. redis.call('XADD', ended, '*', 'i', found[1], 'e', found[2], 'f', found[3])
    weight = weight + RESULT_WEIGHT + #found[3]
  end
  redis.call('HSET', live, unpack(places))
  if redis.call('HINCRBY', live, 'kept', weight) > RESULTS_MAX_BYTES then
    forget_results(ended, live, redis.call('XRANGE', ended, '-', '+', 'COUNT', math.max(RESULTS_BATCH, 2 * #ends)))
  end
end

-- `id`: the event's entry's, '' of one that had none. `status`: succeeded, failed or cancelled; `attempt`: starts made.
local function keep_result(ended, live, record, id, status, attempt, reason, frame)
  local how = string.format('%s %d %.0f %s', status, attempt, accepted_ms(record, id), reason)
  keep_results(ended, live, {{invocation_id(record), how, frame}})
end
