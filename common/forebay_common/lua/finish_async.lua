-- Finish one async event, as the owner of its lease: result, retry or dead letter and acknowledgement in one step.
-- KEYS: 1 async stream; 2 delayed set; 3 dead letters; 4 body of the event (only when it has a claim)
-- ARGV: 1 entry id; 2 consumer; 3 outcome; 4 delay in ms (retry, else 0); 5 reason (retry and dead, else '')
--   done     it ran and nothing more is to do
--   retry    it ran and failed: run it again after the delay; a retry due past the event's age is a dead letter
--            at once, with the reason EventAgeExceeded
--   dead     it ran and failed for the last time
--   expired  it did not start: it is past its age (reason EventAgeExceeded) or cannot be run (the reason given)
-- Returns 1, or 0 when the lease was lost: somebody else finishes it, and nothing was changed.
-- Errors: ERR on an unknown outcome.
--- include record
--- include lease
--- include bury
local stream, id, outcome = KEYS[1], ARGV[1], ARGV[3]
if not lease(stream, id, ARGV[2]) then
  return 0
end
if outcome == 'done' then
  if KEYS[4] then
    redis.call('UNLINK', KEYS[4])
  end
  drop(stream, id)
  return 1
end
local entry = redis.call('XRANGE', stream, id, id)[1]
if entry then
  local record = entry[2][2]
  if outcome == 'retry' then
    local due = now_ms() + tonumber(ARGV[4])
    if due > last_start_ms(record, id) then
      bury(KEYS[3], moved_record(record, id, 1), 'EventAgeExceeded', KEYS[4])
    else
      redis.call('ZADD', KEYS[2], due, moved_record(record, id, 1))
    end
  elseif outcome == 'dead' then
    bury(KEYS[3], moved_record(record, id, 1), ARGV[5], KEYS[4])
  elseif outcome == 'expired' then
    bury(KEYS[3], moved_record(record, id, 0), ARGV[5], KEYS[4])
  else
    return redis.error_reply('ERR unknown outcome ' .. outcome)
  end
end
drop(stream, id)
return 1
