-- Remove and return the best points.
-- KEYS 1 progress hash, 2 scores zset, 3 ages zset, 4 ready stream
-- ARGV 1 k
-- Returns {points, their scores as text}; while there are fewer than k, the last id of the ready
-- stream, which the push of the k-th point will ring.
local k = tonumber(ARGV[1])
if redis.call('ZCARD', KEYS[2]) < k then
  local step, wanted = unpack(redis.call('HMGET', KEYS[1], 'step', 'wanted'))
  -- Without a step no push counts; the first `advance` will wake us to come again.
  if step and (not wanted or k < tonumber(wanted)) then redis.call('HSET', KEYS[1], 'wanted', k) end
  local last = redis.call('XREVRANGE', KEYS[4], '+', '-', 'COUNT', 1)[1]
  return last and last[1] or '0-0'
end

local best = redis.call('ZRANGE', KEYS[2], 0, k - 1, 'REV', 'WITHSCORES')
redis.call('ZREMRANGEBYRANK', KEYS[2], -k, -1)
local points, scores = {}, {}
for i = 1, #best, 2 do
  points[#points + 1] = best[i]
  scores[#scores + 1] = best[i + 1]
end
for first = 1, #points, 1000 do -- Lua's stack holds a few thousand values
  redis.call('ZREM', KEYS[3], unpack(points, first, math.min(first + 999, #points)))
end
return {table.concat(points), table.concat(scores, ' ')}
