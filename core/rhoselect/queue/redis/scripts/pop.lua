-- Read the best points of a complete window.
-- KEYS 1 windows hash, 2 done set, 3 scores zset, 4 rejected set, 5 features hash, 6 ready list
-- ARGV 1 window, 2 k, 3 expiry in ms
-- Returns nil while the window is not complete, else {version, {point, score, ...}, {row, ...}};
-- the rows are empty without features.
for i = 1, #KEYS do redis.call('PEXPIRE', KEYS[i], ARGV[3]) end
local entry = redis.call('HGET', KEYS[1], ARGV[1])
local version, chunks = string.match(entry or '', '(%S+) (%d+)')
if not version or redis.call('SCARD', KEYS[2]) < tonumber(chunks) then return false end

-- A complete window keeps one token, so that every popper that blocks wakes up.
if redis.call('EXISTS', KEYS[6]) == 0 then
  redis.call('LPUSH', KEYS[6], 1)
  redis.call('PEXPIRE', KEYS[6], ARGV[3])
end
if ARGV[2] == '0' then return {version, {}, {}} end
local best = redis.call('ZRANGE', KEYS[3], 0, ARGV[2] - 1, 'REV', 'WITHSCORES')
local rows = {}
if redis.call('EXISTS', KEYS[5]) == 1 then
  for i = 1, #best, 2 do rows[#rows + 1] = redis.call('HGET', KEYS[5], best[i]) end
end
return {version, best, rows}
