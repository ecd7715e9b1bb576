-- How a leased event ends, in finish_async and reclaim_async, whose first keys are the same: 1 async stream;
-- 2 delayed set; 3 dead letters; 4 live; 5 ended; 6 outbox; 7 groups; 8 list of the event's group (or the async stream).
local OUTBOX_MAX = 100000
local DESTINATION_FLAGS = {succeeded = 4, failed = 8, cancelled = 0}

-- Whether `live` says that this leased event was cancelled meanwhile.
local function is_cancelled(record, id)
  return redis.call('HGET', KEYS[4], invocation_id(record)) == id .. ' c'
end

-- Nothing of the event is left but its result, and its record where it has a destination or is a dead letter.
local function conclude(record, id, starts, status, reason, frame, body, group)
  local flag = DESTINATION_FLAGS[status]
  local to_destination = bit.band(string.byte(record, 4), flag) ~= 0
  if to_destination and redis.call('XLEN', KEYS[6]) < OUTBOX_MAX then
    redis.call('XADD', KEYS[6], '*',
      'r', moved_record(record, id, starts), 's', status, 'reason', reason, 'f', frame)
    if body then
      redis.call('EXPIRE', body, DEAD_TTL_S)
    end
  elseif to_destination then
    bury(KEYS[3], moved_record(record, id, starts), 'DestinationsFull', frame, body)
  elseif status == 'failed' then
    bury(KEYS[3], moved_record(record, id, starts), reason, frame, body)
  elseif body then
    redis.call('UNLINK', body)
  end
  keep_result(KEYS[5], KEYS[4], record, id, status, attempts(record, starts), reason, frame)
  drop(KEYS[1], id)
  pass_turn(KEYS[1], KEYS[2], KEYS[4], KEYS[7], KEYS[8], group)
end

-- It runs again: at `due`, or at once when that is not later than now.
local function run_again(record, id, starts, due, now)
  record = moved_record(record, id, starts)
  if due > now then
    delay(KEYS[2], KEYS[4], record, due)
  else
    append(KEYS[1], KEYS[4], record)
  end
  drop(KEYS[1], id)
end
