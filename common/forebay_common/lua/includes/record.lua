-- Reading and patching a record by byte offsets (record.py names them; Lua counts from 1). Payloads are never read.
local function now_ms()
  local now = redis.call('TIME')
  return tonumber(now[1]) * 1000 + math.floor(tonumber(now[2]) / 1000)
end

local function invocation_id(record)
  return string.sub(record, 27, 42)
end

-- first_accepted_ms: 0 in the record's first entry.
local function moved_at_ms(record)
  return struct.unpack('>I8', record, 19)
end

local function accepted_ms(record, id)
  local moved = moved_at_ms(record)
  if moved > 0 then
    return moved
  end
  return tonumber(string.match(id, '^%d+'))
end

-- The last moment at which the event may start: acceptance plus wait_ms, its maximum age.
local function last_start_ms(record, id)
  return accepted_ms(record, id) + struct.unpack('>I4', record, 11)
end

local function attempts(record, starts)
  return math.min(string.byte(record, 5) + starts, 255)
end

-- The record with another count of starts and another moment of acceptance (0: its next entry's id).
local function patched(record, attempt, first_accepted_ms)
  return string.sub(record, 1, 4) .. string.char(attempt) .. string.sub(record, 6, 18)
    .. struct.pack('>I8', first_accepted_ms) .. string.sub(record, 27)
end

-- The record for its next entry: it keeps the moment of acceptance, and counts `starts` more starts.
local function moved_record(record, id, starts)
  return patched(record, attempts(record, starts), accepted_ms(record, id))
end
