-- Announce a generation of a run, unless a newer one is there.
-- KEYS 1 newest string
-- ARGV 1 generation, 2 expiry in ms
local newest = redis.call('GET', KEYS[1])
if newest and tonumber(newest) > tonumber(ARGV[1]) then return redis.error_reply('FENCED') end
-- A full server refuses to set a key, and lets us keep one.
if newest ~= ARGV[1] then redis.call('SET', KEYS[1], ARGV[1]) end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
