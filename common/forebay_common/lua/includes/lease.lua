-- XPENDING on the queue's group; nil when the function is deleted (there is no stream or no group).
local function pending(stream, ...)
  local found = redis.pcall('XPENDING', stream, 'g', ...)
  if found.err then
    if string.find(found.err, 'NOGROUP', 1, true) then
      return nil
    end
    error(found.err)
  end
  return found
end

-- The lease: an entry in the group's pending list, held by the consumer it stands under.
-- Gives {id, consumer, idle ms, deliveries}, or nil when that consumer does not hold it.
local function lease(stream, id, consumer)
  local found = pending(stream, id, id, 1, consumer)
  return found and found[1]
end

-- Acknowledgement and deletion are one step: queued = XLEN - pending stays exact.
local function drop(stream, id)
  redis.call('XACK', stream, 'g', id)
  redis.call('XDEL', stream, id)
end
