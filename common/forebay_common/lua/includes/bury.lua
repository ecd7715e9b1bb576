-- Dead letters: 14 days from the last one on, as many as twice DEAD_LETTERS_MAX; the controller trims to
-- DEAD_LETTERS_MAX and removes the bodies with them, this bound holds when there is no controller.
local DEAD_TTL_S = 1209600
local DEAD_MAX = 2000

-- The entry's id is the time of death. `frame`: the last reply frame or ''. `body` (or nil) is the claimed payload's
-- key: it stays as long.
local function bury(dead, record, reason, frame, body)
  redis.call('XADD', dead, 'MAXLEN', '~', DEAD_MAX, '*', 'r', record, 'reason', reason, 'f', frame)
  redis.call('EXPIRE', dead, DEAD_TTL_S)
  if body then
    redis.call('EXPIRE', body, DEAD_TTL_S)
  end
end
