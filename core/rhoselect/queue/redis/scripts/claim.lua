-- Lease the first waiting ticket.
-- KEYS 1 todo zset, 2 leases zset, 3 owners hash, 4 bell list
-- ARGV 1 worker slot, 2 lease in ms, 3 expiry in ms
-- Returns the ticket, or nil.
local ticket = redis.call('ZPOPMIN', KEYS[1])[1]
-- Tokens outlive tickets that were claimed without waiting; none may pile up.
if redis.call('EXISTS', KEYS[1]) == 0 then redis.call('DEL', KEYS[4]) end
if not ticket then return false end

local time = redis.call('TIME')
local deadline = time[1] * 1000 + math.floor(time[2] / 1000) + ARGV[2]
redis.call('ZADD', KEYS[2], string.format('%.0f', deadline), ticket)
redis.call('HSET', KEYS[3], ticket, ARGV[1])
for i = 1, #KEYS do redis.call('PEXPIRE', KEYS[i], ARGV[3]) end
return ticket
