-- Renew the leases of calls that still run. Only the owner may: an unconditional XCLAIM would steal back what
-- another instance has been given.
-- KEYS: 1 stream
-- ARGV: 1 consumer; 2… entry ids
-- Returns the ids that this consumer still holds; their idle time starts again at 0. A missing id was lost.
-- Errors: none of its own.
--- include lease
local kept = {}
for i = 2, #ARGV do
  if lease(KEYS[1], ARGV[i], ARGV[1]) then
    -- JUSTID: no record travels, no delivery is counted.
    redis.call('XCLAIM', KEYS[1], 'g', ARGV[1], 0, ARGV[i], 'JUSTID')
    kept[#kept + 1] = ARGV[i]
  end
end
return kept
