-- Make every chunk of a stage that is not done and not leased available. Idempotent.
-- KEYS 1 closed string, 2 stages hash, 3 todo zset, 4 leases zset, 5 owners hash, 6 shortlists hash,
--      7 counters hash, 8 bell stream, 9 ready stream,
--      10 done set, 11 scores zset, 12 rejected set, 13 features hash
--      (5, 7, 9 and 11-13: to renew their expiry only)
-- ARGV 1 stage, 2 version, 3 chunks, 4 expiry in ms; of a shortlist: the points of every chunk
-- Returns how many tickets became available.
local stage = ARGV[1]
local closed = redis.call('GET', KEYS[1])
if closed and tonumber(stage) <= tonumber(closed) then return 0 end

redis.call('HSETNX', KEYS[2], stage, ARGV[2] .. ' ' .. ARGV[3])
local version, chunks = string.match(redis.call('HGET', KEYS[2], stage), '(%S+) (%d+)')
local added = 0
for chunk = 0, tonumber(chunks) - 1 do
  if redis.call('SISMEMBER', KEYS[10], chunk) == 0 then
    local ticket = string.format('%s:%010d:%s', stage, chunk, version)
    local points = ARGV[5 + chunk]
    if points then redis.call('HSETNX', KEYS[6], ticket, points) end
    if not redis.call('ZSCORE', KEYS[4], ticket) then
      added = added + redis.call('ZADD', KEYS[3], 'NX', stage, ticket)
    end
  end
end
if added > 0 then redis.call('XADD', KEYS[8], 'MAXLEN', 1, '*', 'tickets', added) end
for i = 1, #KEYS do redis.call('PEXPIRE', KEYS[i], ARGV[4]) end
return added
