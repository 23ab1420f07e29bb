-- Take back the tickets whose lease ran out, or all those of one worker.
-- KEYS 1 todo zset, 2 leases zset, 3 owners hash, 4 counters hash, 5 bell stream
-- ARGV 1 worker slot or '' for the expired, 2 expiry in ms
-- Returns how many.
local back = {}
if ARGV[1] == '' then
  local time = redis.call('TIME')
  local now = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
  back = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now)
else
  local owners = redis.call('HGETALL', KEYS[3])
  for i = 1, #owners, 2 do
    if owners[i + 1] == ARGV[1] then back[#back + 1] = owners[i] end
  end
end
if #back == 0 then return 0 end

for _, ticket in ipairs(back) do
  redis.call('ZREM', KEYS[2], ticket)
  redis.call('HDEL', KEYS[3], ticket)
  redis.call('ZADD', KEYS[1], string.match(ticket, '^%d+'), ticket)
end
redis.call('HINCRBY', KEYS[4], 'reclaimed', #back)
redis.call('XADD', KEYS[5], 'MAXLEN', 1, '*', 'tickets', #back)
for i = 1, #KEYS do redis.call('PEXPIRE', KEYS[i], ARGV[2]) end
return #back
