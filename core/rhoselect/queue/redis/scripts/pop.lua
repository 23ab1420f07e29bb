-- Read a complete stage.
-- KEYS 1 stages hash, 2 ready stream, 3 scores hash, 4 features hash, 5 newest string
-- ARGV 1 stage, 2 k, 3 generation
-- Returns {version, points of all chunks, features of all chunks}, the latter two empty if k is 0;
-- the last id of the ready stream while the stage is not complete; an error if a newer generation
-- is announced.
local newest = redis.call('GET', KEYS[5])
if newest and tonumber(newest) > tonumber(ARGV[3]) then return redis.error_reply('FENCED') end

local entry = redis.call('HGET', KEYS[1], ARGV[1])
local version, chunks = string.match(entry or '', '(%S+) (%d+)')
if not version or redis.call('HLEN', KEYS[3]) < tonumber(chunks) then
  local last = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 1)[1]
  return last and last[1] or '0-0'
end
if ARGV[2] == '0' then return {version, '', ''} end
local pushed, points, rows = redis.call('HGETALL', KEYS[3]), {}, {}
local featured = redis.call('HLEN', KEYS[4]) > 0
for i = 1, #pushed, 2 do
  points[#points + 1] = pushed[i + 1]
  if featured then rows[#rows + 1] = redis.call('HGET', KEYS[4], pushed[i]) or '' end
end
return {version, table.concat(points), table.concat(rows)}
