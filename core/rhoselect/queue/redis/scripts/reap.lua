-- Make tickets available again whose lease has expired, or all tickets leased to one worker.
-- KEYS 1 todo zset, 2 leases hash, 3 counters hash, 4 notify stream
-- ARGV 1 worker slot, or '' for the expired leases, 2 expiry in ms
-- Returns how many tickets were taken back.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local back = 0
local leases = redis.call('HGETALL', KEYS[2])
for i = 1, #leases, 2 do
  local ticket, deadline, worker = leases[i], string.match(leases[i + 1], '(%d+) (%S+)')
  if worker == ARGV[1] or (ARGV[1] == '' and tonumber(deadline) <= now) then
    redis.call('HDEL', KEYS[2], ticket)
    redis.call('ZADD', KEYS[1], string.match(ticket, '^%d+'), ticket)
    back = back + 1
  end
end
if back > 0 then
  redis.call('HINCRBY', KEYS[3], 'reclaimed', back)
  redis.call('XADD', KEYS[4], 'MAXLEN', 1, '*', 'tickets', back)
  for i = 1, #KEYS do redis.call('PEXPIRE', KEYS[i], ARGV[2]) end
end
return back
