-- Make every chunk of a window that is not done and not leased available. Idempotent.
-- KEYS 1 closed string, 2 windows hash, 3 todo zset, 4 leases zset, 5 bell list,
--      6 done set, 7 scores zset, 8 rejected set, 9 features hash, 10 ready list (7-10: expiry only)
-- ARGV 1 window, 2 version, 3 chunks, 4 expiry in ms, 5 most tokens in the bell
-- Returns how many tickets became available.
local window = ARGV[1]
local closed = redis.call('GET', KEYS[1])
if closed and tonumber(window) <= tonumber(closed) then return 0 end

redis.call('HSETNX', KEYS[2], window, ARGV[2] .. ' ' .. ARGV[3])
local version, chunks = string.match(redis.call('HGET', KEYS[2], window), '(%S+) (%d+)')
local added = 0
for chunk = 0, tonumber(chunks) - 1 do
  if redis.call('SISMEMBER', KEYS[6], chunk) == 0 then
    local ticket = string.format('%s:%010d:%s', window, chunk, version)
    if not redis.call('ZSCORE', KEYS[4], ticket) then
      added = added + redis.call('ZADD', KEYS[3], 'NX', window, ticket)
    end
  end
end
for _ = 1, math.min(added, tonumber(ARGV[5]) - redis.call('LLEN', KEYS[5])) do
  redis.call('LPUSH', KEYS[5], 1)
end
for i = 1, #KEYS do redis.call('PEXPIRE', KEYS[i], ARGV[4]) end
return added
