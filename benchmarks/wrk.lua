-- One POST with a small body, as `benchmarks.stage.load` asks for it: wrk … -s wrk.lua URL -- NAME VALUE …
-- (headers in pairs; `body-bytes` is the size of another body, `random-bytes` that of bodies which all differ;
-- `requests` a file of whole requests to send in turn: each is its length in bytes, a newline, and itself).
-- Prints the figures as one JSON object at the end.
function init(args)
  wrk.method = 'POST'
  wrk.body = '{"hello": "world"}'
  wrk.headers['Authorization'] = 'benchmark'
  for i = 1, #args, 2 do
    if args[i] == 'body-bytes' then
      wrk.body = '"' .. string.rep('x', tonumber(args[i + 1]) - 2) .. '"'
    elseif args[i] == 'random-bytes' then
      vary(tonumber(args[i + 1]))
    elseif args[i] == 'requests' then
      send_recorded(args[i + 1])
    else
      wrk.headers[args[i]] = args[i + 1]
    end
  end
end

-- So many requests are made in advance: making each of them anew would take more of the cores than the rest does.
VARIETY = 10000

function vary(bytes)
  local requests, at = {}, 0
  math.randomseed(os.time())
  request = function()
    at = at % VARIETY + 1
    if not requests[at] then
      local digits = {}
      for i = 1, bytes - 2 do
        digits[i] = string.char(math.random(97, 122))
      end
      requests[at] = wrk.format(nil, nil, nil, '"' .. table.concat(digits) .. '"')
    end
    return requests[at]
  end
end

function send_recorded(path)
  local file = assert(io.open(path, 'rb'))
  local requests, at = {}, 0
  local length = file:read('*l')
  while length do
    requests[#requests + 1] = file:read(tonumber(length))
    length = file:read('*l')
  end
  file:close()
  request = function()
    at = at % #requests + 1
    return requests[at]
  end
end

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    '\n{"requests": %d, "seconds": %f, "errors": %d, "p50_us": %f, "p99_us": %f}\n',
    summary.requests, summary.duration / 1e6,
    errors.status + errors.connect + errors.read + errors.write + errors.timeout,
    latency:percentile(50), latency:percentile(99)))
end
