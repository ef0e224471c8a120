-- The load: one query again and again. The last line is for run.py.
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.body = '@QUERY@'

function done(summary, latency, _)
  local errors = summary.errors
  local failed = errors.connect + errors.read + errors.write + errors.timeout + errors.status
  io.write(string.format("RESULT %d %d %d %.0f %.0f\n", summary.requests, summary.duration, failed,
    latency:percentile(50), latency:percentile(99)))
end
