-- Announce a generation of a run; an error if a newer one is announced.
-- KEYS 1 newest string
-- ARGV 1 generation, 2 expiry in ms
local newest = redis.call('GET', KEYS[1])
if newest and tonumber(newest) > tonumber(ARGV[1]) then return redis.error_reply('FENCED') end
-- Set the key only if it changes: a server at maxmemory refuses SET, but allows PEXPIRE.
if newest ~= ARGV[1] then redis.call('SET', KEYS[1], ARGV[1]) end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
