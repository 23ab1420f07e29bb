-- Add the scores of one chunk, once.
-- KEYS 1 windows hash, 2 todo zset, 3 leases zset, 4 owners hash, 5 counters hash,
--      6 done set, 7 scores zset, 8 rejected set, 9 features hash, 10 ready list
-- ARGV 1 window, 2 chunk, 3 version, 4 ticket, 5 expiry in ms, 6 n points, 7 r rejected;
--      then n times (score, point), r positions, and n times (point, features) or nothing
-- Returns 1 if the push counted, else 0.
local window, chunk, version, ticket = ARGV[1], ARGV[2], ARGV[3], ARGV[4]

local function push()
  local entry = redis.call('HGET', KEYS[1], window)
  local open_version, chunks = string.match(entry or '', '(%S+) (%d+)')
  if open_version ~= version then return 'late' end
  -- The first write: a server at maxmemory refuses this one or none, never half a push.
  if redis.call('SADD', KEYS[6], chunk) == 0 then return 'repeated' end

  -- Lua's stack holds a few thousand values: long lists go in slices (of whole pairs).
  local function add(command, key, first, last)
    for i = first, last, 1000 do
      redis.call(command, key, unpack(ARGV, i, math.min(i + 999, last)))
    end
  end
  local pairs_end = 7 + 2 * tonumber(ARGV[6])
  local rejected_end = pairs_end + tonumber(ARGV[7])
  add('ZADD', KEYS[7], 8, pairs_end)
  add('SADD', KEYS[8], pairs_end + 1, rejected_end)
  add('HSET', KEYS[9], rejected_end + 1, #ARGV)
  redis.call('HINCRBY', KEYS[5], 'rejected', ARGV[7])

  redis.call('ZREM', KEYS[2], ticket)
  redis.call('ZREM', KEYS[3], ticket)
  redis.call('HDEL', KEYS[4], ticket)
  if redis.call('SCARD', KEYS[6]) == tonumber(chunks) then redis.call('LPUSH', KEYS[10], 1) end
  return 'accepted'
end

local outcome = push()
redis.call('HINCRBY', KEYS[5], outcome, 1)
for i = 1, #KEYS do redis.call('PEXPIRE', KEYS[i], ARGV[5]) end
return outcome == 'accepted' and 1 or 0
