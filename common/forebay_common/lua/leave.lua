-- A drained or dead instance leaves its function: only when nothing is leased to it any more, since deleting a
-- consumer discards its pending entries for good.
-- KEYS: 1 sync stream; 2 async stream; 3 control stream of the instance; 4 its heartbeat
-- ARGV: 1 consumer; 2 ms for which its heartbeat stays readable, for its last counters (0: it goes at once)
-- Returns 0 when it has left, else how many entries are still leased to it; then nothing was changed.
-- Errors: none of its own.
--- include lease
local streams = {}
local held = 0
for i = 1, 2 do
  local summary = pending(KEYS[i])
  if summary then
    streams[#streams + 1] = KEYS[i]
    for _, consumer in ipairs(summary[4] or {}) do
      if consumer[1] == ARGV[1] then
        held = held + tonumber(consumer[2])
      end
    end
  end
end
if held > 0 then
  return held
end
for _, stream in ipairs(streams) do
  redis.call('XGROUP', 'DELCONSUMER', stream, 'g', ARGV[1])
end
redis.call('UNLINK', KEYS[3])
if tonumber(ARGV[2]) > 0 then
  redis.call('PEXPIRE', KEYS[4], ARGV[2])
else
  redis.call('UNLINK', KEYS[4])
end
return 0
