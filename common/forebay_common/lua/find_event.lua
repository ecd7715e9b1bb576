-- Where an async event is. Its record comes without the payload.
-- KEYS: 1 async stream; 2 live; 3 delayed set; 4 ended
-- ARGV: 1 invocation id (16 bytes)
-- Returns nil when no such event is known, else {place, entry id or '', consumer or '', due in ms or -1, record}, where
--   place is queued, running, cancelling (leased, and cancelled meanwhile), delayed or waiting (for its group's
--   turn), or {'ended', entry id, how it ended, reply frame}, as the entry has them.
-- Errors: none of its own.
--- include lease
-- Header and fields, up to the payload's tag.
local function without_payload(record)
  local at = 43
  while at + 2 <= #record and string.byte(record, at) ~= 0 do
    at = at + 3 + struct.unpack('>I2', record, at + 1)
  end
  return string.sub(record, 1, at)
end

local stream, place = KEYS[1], redis.call('HGET', KEYS[2], ARGV[1])
if not place then
  return false
end
local kind = string.sub(place, 1, 1)
if kind == 'e' then
  local id = string.sub(place, 3)
  local fields = redis.call('XRANGE', KEYS[4], id, id)[1][2]
  return {'ended', id, fields[4], fields[6]}
elseif kind == 'd' then
  local due = redis.call('ZSCORE', KEYS[3], ARGV[1])
  return {'delayed', '', '', tonumber(due), without_payload(string.sub(place, 2))}
elseif kind == 'g' then
  return {'waiting', '', '', -1, without_payload(string.sub(place, 2))}
end
local id, mark = string.match(place, '^(%S+)(.*)$')
local entry = redis.call('XRANGE', stream, id, id)[1]
if not entry then
  return false
end
local record = without_payload(entry[2][2])
local held = pending(stream, id, id, 1)
if not held or not held[1] then
  return {'queued', id, '', -1, record}
end
return {mark == '' and 'running' or 'cancelling', id, held[1][2], -1, record}
