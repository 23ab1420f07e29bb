-- Delete a window and all windows below, and record that they are closed.
-- KEYS 1 closed string, 2 stages hash, 3 todo zset, 4 leases hash, 5 shortlists hash,
--      6-11 the keys of the window's two stages
-- ARGV 1 the window's last stage, 2 expiry in ms
-- Returns the stages of lower windows that were open; the caller deletes their keys.
local last = tonumber(ARGV[1])
local function is_closed(ticket) return tonumber(string.match(ticket, '^%d+')) <= last end

-- Deletions first: a server at maxmemory lets a script continue once it has written.
redis.call('UNLINK', unpack(KEYS, 6))
redis.call('ZREMRANGEBYSCORE', KEYS[3], '-inf', last)
for _, key in ipairs({KEYS[4], KEYS[5]}) do
  for _, ticket in ipairs(redis.call('HKEYS', key)) do
    if is_closed(ticket) then redis.call('HDEL', key, ticket) end
  end
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
