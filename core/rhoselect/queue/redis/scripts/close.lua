-- Forget a window and all below it, and raise the watermark that keeps them closed.
-- KEYS 1 closed string, 2 stages hash, 3 todo zset, 4 leases zset, 5 owners hash, 6 shortlists hash,
--      7-14 the keys of the window's two stages
-- ARGV 1 the window's last stage, 2 expiry in ms
-- Returns the other stages that were open below: the caller deletes their keys.
local last = tonumber(ARGV[1])
local function is_closed(ticket) return tonumber(string.match(ticket, '^%d+')) <= last end

-- Deletions first: a server at maxmemory lets a script go on that has begun to write.
redis.call('UNLINK', unpack(KEYS, 7))
redis.call('ZREMRANGEBYSCORE', KEYS[3], '-inf', last)
for _, ticket in ipairs(redis.call('ZRANGE', KEYS[4], 0, -1)) do
  if is_closed(ticket) then
    redis.call('ZREM', KEYS[4], ticket)
    redis.call('HDEL', KEYS[5], ticket)
  end
end
for _, ticket in ipairs(redis.call('HKEYS', KEYS[6])) do
  if is_closed(ticket) then redis.call('HDEL', KEYS[6], ticket) end
end
local below = {}
for _, stage in ipairs(redis.call('HKEYS', KEYS[2])) do
  if tonumber(stage) <= last then
    redis.call('HDEL', KEYS[2], stage)
    if tonumber(stage) < last - 1 then below[#below + 1] = stage end
  end
end
local closed = redis.call('GET', KEYS[1])
if not closed or tonumber(closed) < last then closed = ARGV[1] end
redis.call('SET', KEYS[1], closed, 'PX', ARGV[2])
return below
