-- Make the tickets of a stage available, but for chunks that are done or leased. Idempotent.
-- KEYS 1 closed string, 2 stages hash, 3 todo zset, 4 leases hash, 5 shortlists hash,
--      6 counters hash, 7 notify stream, 8 ready stream,
--      9 scores hash, 10 rejected hash, 11 features hash, 12 newest string
--      (of 6, 8, 10 and 11 only the expiry is renewed)
-- ARGV 1 stage, 2 version, 3 chunks, 4 expiry in ms, 5 generation; then, for a shortlist, the points
--      of every chunk
-- Returns how many tickets became available; an error if a newer generation is announced.
local newest = redis.call('GET', KEYS[12])
if newest and tonumber(newest) > tonumber(ARGV[5]) then return redis.error_reply('FENCED') end
if newest ~= ARGV[5] then redis.call('SET', KEYS[12], ARGV[5]) end

local stage = ARGV[1]
local closed = redis.call('GET', KEYS[1])
if closed and tonumber(stage) <= tonumber(closed) then return 0 end

redis.call('HSETNX', KEYS[2], stage, ARGV[2] .. ' ' .. ARGV[3])
local version, chunks = string.match(redis.call('HGET', KEYS[2], stage), '(%S+) (%d+)')
local taken = {}
for _, chunk in ipairs(redis.call('HKEYS', KEYS[9])) do taken[tonumber(chunk)] = true end
for _, ticket in ipairs(redis.call('HKEYS', KEYS[4])) do
  local number, chunk = string.match(ticket, '(%d+):(%d+)')
  if number == stage then taken[tonumber(chunk)] = true end
end

local added, entries = 0, {}
local function add()
  if #entries > 0 then added = added + redis.call('ZADD', KEYS[3], 'NX', unpack(entries)) end
  entries = {}
end
for chunk = 0, tonumber(chunks) - 1 do
  local ticket = string.format('%s:%010d:%s', stage, chunk, version)
  local points = ARGV[6 + chunk]
  if points then redis.call('HSETNX', KEYS[5], ticket, points) end
  if not taken[chunk] then
    entries[#entries + 1] = stage
    entries[#entries + 1] = ticket
    if #entries >= 1000 then add() end -- Lua's stack holds a few thousand values
  end
end
add()
if added > 0 then redis.call('XADD', KEYS[7], 'MAXLEN', 1, '*', 'tickets', added) end
for i = 1, #KEYS do redis.call('PEXPIRE', KEYS[i], ARGV[4]) end
return added
