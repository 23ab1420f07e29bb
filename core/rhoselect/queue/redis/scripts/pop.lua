-- Read a complete stage.
-- KEYS 1 stages hash, 2 ready stream, 3 scores hash, 4 features hash, 5 newest string
-- ARGV 1 stage, 2 k, 3 generation
-- Returns {version, scores of all chunks, features of all chunks}, both as chunk, value, …, and
-- empty if k is 0; the last id of the ready stream while the stage is not complete; an error if a
-- newer generation is announced.
local newest = redis.call('GET', KEYS[5])
if newest and tonumber(newest) > tonumber(ARGV[3]) then return redis.error_reply('FENCED') end

local entry = redis.call('HGET', KEYS[1], ARGV[1])
local version, chunks = string.match(entry or '', '(%S+) (%d+)')
if not version or redis.call('HLEN', KEYS[3]) < tonumber(chunks) then
  local last = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 1)[1]
  return last and last[1] or '0-0'
end
if ARGV[2] == '0' then return {version, {}, {}} end
return {version, redis.call('HGETALL', KEYS[3]), redis.call('HGETALL', KEYS[4])}
