-- Hand out the next chunk of the plan.
-- KEYS 1 progress hash, 2 bell stream
-- ARGV 1 chunks a window, 2 windows ahead
-- Returns {number of the chunk since the plan's start}; the bell's last id if scorers are far ahead.
local step = redis.call('HGET', KEYS[1], 'step')
local chunk = step and redis.call('HGET', KEYS[1], 'next')
if not step or tonumber(chunk) >= (step + ARGV[2]) * ARGV[1] then
  local last = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 1)[1]
  return last and last[1] or '0-0'
end
redis.call('HINCRBY', KEYS[1], 'next', 1)
return {chunk}
