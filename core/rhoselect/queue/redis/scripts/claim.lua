-- Lease the first waiting ticket that the worker may have.
-- KEYS 1 stages hash, 2 todo zset, 3 leases hash, 4 shortlists hash, 5 notify stream
-- ARGV 1 worker slot, 2 lanes, 3 newest version loaded or '' for any, 4 lease in ms, 5 expiry in ms,
--      6 '0' for tickets of shortlists only, '1' for candidates' only, '-1' for both, 7 the worker's lane
-- Returns {ticket, points of a shortlist's chunk or nil}; without a ticket the last id of the notify stream.
local lane, lanes, loaded = tonumber(ARGV[7]), tonumber(ARGV[2]), tonumber(ARGV[3])

-- The first ticket of the worker's lane in the stage whose first ticket of all is given.
local function own(stage, first_chunk, version)
  if lane >= lanes then return nil end
  local _, chunks = string.match(redis.call('HGET', KEYS[1], stage) or '0 0', '(%S+) (%d+)')
  local start = first_chunk + (lane - first_chunk) % lanes
  for chunk = start, tonumber(chunks) - 1, lanes do
    local ticket = string.format('%s:%010d:%s', stage, chunk, version)
    if redis.call('ZSCORE', KEYS[2], ticket) then return ticket end
  end
end

local function find()
  local first = redis.call('ZRANGE', KEYS[2], 0, 0)[1]
  while first do
    local stage, chunk, version = string.match(first, '(%d+):(%d+):(%S+)')
    if ARGV[6] == '-1' or stage % 2 == tonumber(ARGV[6]) then
      if chunk % lanes == lane then return first, stage end
      local ticket = own(stage, tonumber(chunk), version)
      if ticket then return ticket, stage end
      if not loaded or tonumber(version) <= loaded then return first, stage end
    end
    first = redis.call('ZRANGEBYSCORE', KEYS[2], '(' .. stage, '+inf', 'LIMIT', 0, 1)[1]
  end
end

local ticket, stage = find()
local points = nil
if ticket then
  redis.call('ZREM', KEYS[2], ticket)
  if stage % 2 == 0 then
    points = redis.call('HGET', KEYS[4], ticket)
    -- A shortlist's ticket that outlived its points is no work; the next `open` brings both back.
    if not points then ticket = nil end
  end
end
if not ticket then
  local last = redis.call('XREVRANGE', KEYS[5], '+', '-', 'COUNT', 1)[1]
  return last and last[1] or '0-0'
end

local time = redis.call('TIME')
local deadline = time[1] * 1000 + math.floor(time[2] / 1000) + ARGV[4]
redis.call('HSET', KEYS[3], ticket, string.format('%.0f %s', deadline, ARGV[1]))
redis.call('PEXPIRE', KEYS[3], ARGV[5])
return {ticket, points or false}
