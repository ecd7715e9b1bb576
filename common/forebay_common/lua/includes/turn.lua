-- Where an event waits until it is leased: the queue; `delayed` until its time; behind an earlier one of its group.
-- `live` says where, and holds the record of one that waits outside the stream: 'd' or 'g', then the record.

-- To the queue's end. False when the function is deleted: a new stream would outlive it.
local function append(async, live, record)
  local entry_id = redis.call('XADD', async, 'NOMKSTREAM', '*', 'r', record)
  if entry_id then
    redis.call('HSET', live, invocation_id(record), entry_id)
  end
  return entry_id
end

local function delay(delayed, live, record, due)
  redis.call('ZADD', delayed, due, invocation_id(record))
  redis.call('HSET', live, invocation_id(record), 'd' .. record)
end

-- Its group's turn is its own from now on; false when an earlier event of the group is not ended: then it waits.
local function takes_turn(live, groups, list, group, record, now)
  if group == '' or redis.call('HSETNX', groups, group, '1') == 1 then
    return true
  end
  if moved_at_ms(record) == 0 then
    record = patched(record, string.byte(record, 5), now)
  end
  redis.call('RPUSH', list, invocation_id(record))
  redis.call('HSET', live, invocation_id(record), 'g' .. record)
  redis.call('HINCRBY', groups, 'n', 1)
  return false
end

-- The event that had its group's turn has ended: the next one goes to the queue's end, behind those of other groups.
-- An id in the list whose event does not wait for its turn is passed over, so that no group stands still.
local function pass_turn(async, delayed, live, groups, list, group)
  if group == '' then
    return
  end
  local invocation, waiting
  repeat
    invocation = redis.call('LPOP', list)
    if not invocation then
      redis.call('HDEL', groups, group)
      return
    end
    redis.call('HINCRBY', groups, 'n', -1)
    waiting = redis.call('HGET', live, invocation)
  until waiting and string.sub(waiting, 1, 1) == 'g'
  local record = string.sub(waiting, 2)
  if moved_at_ms(record) > now_ms() then
    -- It was accepted for a time that has not come yet.
    delay(delayed, live, record, moved_at_ms(record))
  else
    append(async, live, record)
  end
end
