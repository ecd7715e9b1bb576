-- One POST with a small body, as `benchmarks.stage.load` asks for it: wrk … -s wrk.lua URL -- NAME VALUE …
-- (headers in pairs). Prints the figures as one JSON object at the end.
function init(args)
  wrk.method = 'POST'
  wrk.body = '{"hello": "world"}'
  wrk.headers['Authorization'] = 'benchmark'
  for i = 1, #args, 2 do
    wrk.headers[args[i]] = args[i + 1]
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
