-- Forget one window and raise the watermark that keeps it closed.
-- KEYS 1 closed string, 2 windows hash, 3 todo zset, 4 leases zset, 5 owners hash,
--      6 done set, 7 scores zset, 8 rejected set, 9 features hash, 10 ready list
-- ARGV 1 window, 2 expiry in ms
local window = ARGV[1]
-- Deletions first: a server at maxmemory lets a script go on that has begun to write.
redis.call('UNLINK', KEYS[6], KEYS[7], KEYS[8], KEYS[9], KEYS[10])
redis.call('HDEL', KEYS[2], window)
redis.call('ZREMRANGEBYSCORE', KEYS[3], window, window)
for _, ticket in ipairs(redis.call('ZRANGE', KEYS[4], 0, -1)) do
  if string.match(ticket, '^%d+') == window then
    redis.call('ZREM', KEYS[4], ticket)
    redis.call('HDEL', KEYS[5], ticket)
  end
end
local closed = redis.call('GET', KEYS[1])
if not closed or tonumber(closed) < tonumber(window) then redis.call('SET', KEYS[1], window) end
for i = 1, 5 do redis.call('PEXPIRE', KEYS[i], ARGV[2]) end
return 1
