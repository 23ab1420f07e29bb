-- Add the scores of one chunk, once.
-- KEYS 1 stages hash, 2 todo zset, 3 leases hash, 4 counters hash, 5 ready stream,
--      6 scores hash, 7 rejected hash, 8 features hash
-- ARGV 1 stage, 2 chunk, 3 version, 4 expiry in ms, 5 (score, point) of n points, 16 bytes each,
--      6 rejected points, 8 bytes each, 7 n rows of features or ''
-- Returns 1 if the push was accepted, else 0.
local stage, chunk, version = ARGV[1], ARGV[2], ARGV[3]

local function keep(key, packed)
  if #packed > 0 then
    redis.call('HSET', key, chunk, packed)
    redis.call('PEXPIRE', key, ARGV[4])
  end
end

local function push()
  local entry = redis.call('HGET', KEYS[1], stage)
  local open_version, chunks = string.match(entry or '', '(%S+) (%d+)')
  if open_version ~= version then return 'late' end
  -- The first write. A server at maxmemory refuses it or no write of this script, so a push is
  -- stored as a whole or not at all.
  if redis.call('HSETNX', KEYS[6], chunk, ARGV[5]) == 0 then return 'repeated' end
  local done = redis.call('HLEN', KEYS[6])
  if done == 1 then redis.call('PEXPIRE', KEYS[6], ARGV[4]) end
  keep(KEYS[7], ARGV[6])
  keep(KEYS[8], ARGV[7])
  if #ARGV[6] > 0 then redis.call('HINCRBY', KEYS[4], 'rejected', #ARGV[6] / 8) end

  local ticket = string.format('%s:%010d:%s', stage, chunk, version)
  if redis.call('HDEL', KEYS[3], ticket) == 0 then redis.call('ZREM', KEYS[2], ticket) end
  if done == tonumber(chunks) then
    redis.call('XADD', KEYS[5], 'MAXLEN', 1, '*', 'stage', stage)
    redis.call('PEXPIRE', KEYS[5], ARGV[4])
  end
  return 'accepted'
end

local outcome = push()
if redis.call('HINCRBY', KEYS[4], outcome, 1) == 1 then redis.call('PEXPIRE', KEYS[4], ARGV[4]) end
return outcome == 'accepted' and 1 or 0
