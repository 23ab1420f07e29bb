-- Note a step done: more chunks may be claimed, points that are too old by now go. Idempotent.
-- KEYS 1 progress hash, 2 scores zset, 3 ages zset, 4 counters hash, 5 bell stream, 6 ready stream
--      (4: to renew its expiry only)
-- ARGV 1 step, 2 chunks a window, 3 oldest version that is kept, 4 expiry in ms
-- Returns 1 if the step was new, else 0.
local step = redis.call('HGET', KEYS[1], 'step')
local is_new = not step or tonumber(ARGV[1]) > tonumber(step)
if not step then
  redis.call('HSET', KEYS[1], 'next', ARGV[1] * ARGV[2])
  redis.call('XADD', KEYS[6], 'MAXLEN', 1, '*', 'step', ARGV[1]) -- takers say again what they want
end
if is_new then
  redis.call('HSET', KEYS[1], 'step', ARGV[1])
  local old = '(' .. ARGV[3]
  local points = redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', old)
  for first = 1, #points, 1000 do -- Lua's stack holds a few thousand values
    redis.call('ZREM', KEYS[2], unpack(points, first, math.min(first + 999, #points)))
  end
  redis.call('ZREMRANGEBYSCORE', KEYS[3], '-inf', old)
  redis.call('XADD', KEYS[5], 'MAXLEN', 1, '*', 'step', ARGV[1])
end
for i = 1, #KEYS do redis.call('PEXPIRE', KEYS[i], ARGV[4]) end
return is_new and 1 or 0
