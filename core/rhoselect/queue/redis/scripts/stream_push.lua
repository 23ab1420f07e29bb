-- Add the points of one chunk; beyond the capacity the lowest go.
-- KEYS 1 progress hash, 2 scores zset, 3 ages zset, 4 counters hash, 5 ready stream
-- ARGV 1 version, 2 max age in steps, 3 capacity, 4 expiry in ms, 5 how many were rejected,
--      6 (score, point) of n points, 8 + 16 bytes each
-- Returns 1 if the push counted, else 0 (too old, or nobody said yet how old it is).
local function count(what, by)
  redis.call('HINCRBY', KEYS[4], what, by)
  redis.call('PEXPIRE', KEYS[4], ARGV[4])
end

local function add_points()
  local slice = 1000 -- Lua's stack holds a few thousand values
  for first = 0, #ARGV[6] / 24 - 1, slice do
    local n = math.min(slice, #ARGV[6] / 24 - first)
    local fields = {struct.unpack('<' .. string.rep('dc16', n), ARGV[6], 24 * first + 1)}
    fields[#fields] = nil -- where the unpacking ended
    redis.call('ZADD', KEYS[2], unpack(fields))
    for i = 1, #fields, 2 do fields[i] = ARGV[1] end
    redis.call('ZADD', KEYS[3], unpack(fields))
  end
end

local function drop_beyond_capacity()
  local excess = redis.call('ZCARD', KEYS[2]) - ARGV[3]
  if excess <= 0 then return end
  local lowest = redis.call('ZRANGE', KEYS[2], 0, excess - 1)
  redis.call('ZREMRANGEBYRANK', KEYS[2], 0, excess - 1)
  for first = 1, #lowest, 1000 do
    redis.call('ZREM', KEYS[3], unpack(lowest, first, math.min(first + 999, #lowest)))
  end
end

local step, wanted = unpack(redis.call('HMGET', KEYS[1], 'step', 'wanted'))
if not step or tonumber(ARGV[1]) < step - ARGV[2] then
  count('late', 1)
  return 0
end
count('accepted', 1)
if ARGV[5] ~= '0' then count('rejected', ARGV[5]) end
add_points()
drop_beyond_capacity()
if wanted and redis.call('ZCARD', KEYS[2]) >= tonumber(wanted) then
  redis.call('HDEL', KEYS[1], 'wanted')
  redis.call('XADD', KEYS[5], 'MAXLEN', 1, '*', 'points', wanted)
end
for i = 2, 5 do redis.call('PEXPIRE', KEYS[i], ARGV[4]) end
return 1
