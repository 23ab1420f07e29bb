-- Read the best points of a complete stage.
-- KEYS 1 stages hash, 2 ready stream, 3 done set, 4 scores zset, 5 features hash, 6 newest string
-- ARGV 1 stage, 2 k, 3 generation
-- Returns {version, points, scores as text, features or ''}; the last id of the ready stream while
-- the stage is not complete; an error if a newer generation is announced.
local newest = redis.call('GET', KEYS[6])
if newest and tonumber(newest) > tonumber(ARGV[3]) then return redis.error_reply('FENCED') end

local entry = redis.call('HGET', KEYS[1], ARGV[1])
local version, chunks = string.match(entry or '', '(%S+) (%d+)')
if not version or redis.call('SCARD', KEYS[3]) < tonumber(chunks) then
  local last = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 1)[1]
  return last and last[1] or '0-0'
end

if ARGV[2] == '0' then return {version, '', '', ''} end
local best = redis.call('ZRANGE', KEYS[4], 0, ARGV[2] - 1, 'REV', 'WITHSCORES')
local featured = redis.call('EXISTS', KEYS[5]) == 1
local points, scores, rows = {}, {}, {}
for i = 1, #best, 2 do
  points[#points + 1] = best[i]
  scores[#scores + 1] = best[i + 1]
  if featured then rows[#rows + 1] = redis.call('HGET', KEYS[5], best[i]) end
end
return {version, table.concat(points), table.concat(scores, ' '), table.concat(rows)}
